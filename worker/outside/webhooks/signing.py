"""Signatures of messages: the headers by which a receiver verifies the sender (Standard Webhooks, symmetric)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from standardwebhooks import Webhook

from fedlas import __version__
from service.registry.webhooks import parse_secret

# A full stop would let parts of the signed content move from one field to the other.
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


def signed_headers(message_id: str, timestamp: datetime, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of one attempt: `v1` is HMAC-SHA256 of `id.timestamp.body`.

    Args:
        message_id: The same on every attempt, so that a receiver can tell a repetition.
        timestamp: Of this attempt, with a time zone; receivers usually refuse one that is 5 minutes off.
        body: The very bytes that are sent.
        secret: `whsec_…`.

    Raises:
        ValueError: the id holds other characters than letters, digits, `_` and `-`; the timestamp has no time zone; the
            secret is malformed.
    """
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError(f"a message's id is up to 100 letters, digits, _ and -, not {message_id!r}")
    if timestamp.tzinfo is None:
        raise ValueError("the timestamp of an attempt needs a time zone")
    moment = timestamp.astimezone(UTC)  # the library takes any clock's time for UTC
    return {
        "content-type": "application/json",
        "user-agent": f"fedlas/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(parse_secret(secret)).sign(message_id, moment, body.decode()),
    }
