"""Messages: their signature, when they are sent, sent again and given up, and what an answer means."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from random import Random
from typing import Literal

from standardwebhooks import Webhook

from fedlas import __version__
from service.registry.webhooks import parse_secret

#: What an attempt makes of its message; `disabled`: the receiver wants none ever again.
AttemptOutcome = Literal["delivered", "disabled", "failed"]

#: Before each attempt, since the one before: the specification's example, 75 h 35 min in all.
SCHEDULE = tuple(
    timedelta(minutes=minutes) for minutes in (0, 5 / 60, 5, 30, *(60 * hours for hours in (2, 5, 10, 14, 20, 24)))
)
#: A receiver may ask for no longer a pause than the schedule makes itself.
LONGEST_PAUSE = SCHEDULE[-1]
#: Messages that failed together come back spread over a fifth of their pause.
_JITTER = 0.2
_MOST_DIGITS = 9
# A full stop would let parts of the signed content move from one field to the other.
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


def attempt_outcome(status_code: int | None) -> AttemptOutcome:
    """Judge an answer by its status; None stands for no answer. A redirect is a failure: the URL is to be corrected."""
    if status_code is not None and 200 <= status_code < 300:
        return "delivered"
    return "disabled" if status_code == HTTPStatus.GONE else "failed"


def delay_before(attempt: int, *, random: Random, retry_after: timedelta | None = None) -> timedelta | None:
    """Return how long to wait before this attempt; None: give up.

    Jitter only lengthens a pause, so that none is shorter than the schedule's or than what the receiver asked for.

    Args:
        attempt: 1 for the first, which waits for nothing.
        random: Where the jitter comes from.
        retry_after: What the answer to the attempt before asked for; at most `LONGEST_PAUSE` counts.
    """
    if attempt < 1:
        raise ValueError(f"attempts are counted from 1, not {attempt}")
    if attempt > len(SCHEDULE):
        return None
    asked = min(retry_after or timedelta(), LONGEST_PAUSE)
    return max(SCHEDULE[attempt - 1], asked) * random.uniform(1, 1 + _JITTER)


def parse_retry_after(text: str, *, now: datetime) -> timedelta | None:
    """Read a `Retry-After` header, seconds or a date; None if it is neither. At most `LONGEST_PAUSE`, at least zero."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        pause = timedelta(seconds=int(text)) if len(text) <= _MOST_DIGITS else LONGEST_PAUSE
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        pause = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(pause, timedelta()), LONGEST_PAUSE)


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
