"""The schedule of a message: when it is sent, sent again and given up, and what an answer means; pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from random import Random
from typing import Literal

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
