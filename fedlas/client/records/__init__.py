"""Records: what the server answers, typed; a test compares each of them with `openapi/openapi.json`."""
