"""The retry policy: which answers are worth another try, and how long to wait before it."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto

import httpx

_FIRST_S = 0.4
_LONGEST_S = 8.0
#: A server that asks for more is not waited for: its owner decides.
_LONGEST_ASKED_S = 60.0
_PASSING = frozenset({408, 429, 502, 503, 504})
#: The same request is still being answered, perhaps the one whose connection was lost.
IN_FLIGHT = "idempotency_key_in_flight"
#: Never passes within a few tries: a job takes minutes, and the time that an answer was of use is up.
_LASTING = frozenset({"not_finished", "deadline_exceeded"})
_MOST_CONFLICTS = 2
#: What looks like a defect of the server's is seldom gone the next time.
_MOST_DEFECTS = 2
_MOST_IN_FLIGHT = 60


class Retries(Enum):
    """How often a request may be sent again."""

    WHERE_IT_HELPS = auto()
    #: The answer is of use for a while only, and a server that says nothing may still compute it.
    NOT_FOR_SILENCE = auto()
    #: The second time would do something a second time.
    NONE = auto()


def delay_before_retry(response: httpx.Response, code: str, retries: int, most: int) -> float | None:
    """Seconds to wait before the next try of an answered request; None where the answer stands.

    Args:
        code: the problem's.
        retries: how many there were.
        most: how many there may be.
    """
    asked = retry_after(response)
    if response.status_code == 409:
        if (asked is None and code != IN_FLIGHT) or code in _LASTING:
            return None
        most = _MOST_IN_FLIGHT if code == IN_FLIGHT and most else min(most, _MOST_CONFLICTS)
    elif code in _LASTING or (response.status_code not in _PASSING and response.status_code < 500):
        return None
    elif response.status_code not in _PASSING:
        most = min(most, _MOST_DEFECTS)
    if retries >= most or (asked or 0) > _LONGEST_ASKED_S:
        return None
    return backoff(min(retries, 4)) if asked is None else max(asked, _FIRST_S / 2) * random.uniform(1, 1.25)


def backoff(retries: int) -> float:
    """Seconds to wait after a connection was lost: twice as long each time, and never as long as others wait."""
    return min(_LONGEST_S, _FIRST_S * 2.0**retries) * random.uniform(0.5, 1)


def retry_after(response: httpx.Response) -> float | None:
    """What the server asks for, in seconds; it may be a date."""
    text = response.headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    now = datetime.now(UTC)
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp())
