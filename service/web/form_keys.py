"""Form keys: a form that is sent twice, by a double click or from the page before, has done its work once."""

from __future__ import annotations

import hashlib
import json
import secrets

from pydantic import JsonValue

#: The hidden field that holds it.
FIELD = "form_key"


def new_form_key() -> str:
    """The key of a form that is shown."""
    return secrets.token_hex(8)


def idempotency_key(form_key: str, content: JsonValue) -> str | None:
    """The API's key of what a form asks for: who changes it and sends it again asks for something else.

    >>> idempotency_key("a", {"seed": 1}) == idempotency_key("a", {"seed": 2}), idempotency_key("", {})
    (False, None)
    """
    if not form_key:  # what has no key of its own is nobody's repetition
        return None
    return hashlib.sha256(json.dumps([form_key, content], sort_keys=True).encode()).hexdigest()
