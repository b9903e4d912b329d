"""The Python client. A package, so that the service that its tests share ends with them."""
