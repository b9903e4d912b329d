"""When messages are sent again, and what answers mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.outside.webhooks.schedule import (
    LONGEST_PAUSE,
    SCHEDULE,
    AttemptOutcome,
    attempt_outcome,
    delay_before,
    parse_retry_after,
)

_NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def test_the_schedule_is_the_specifications() -> None:
    """Its table "time since start", in hours, minutes and seconds."""
    table = ["0:00:00", "0:00:05", "0:05:05", "0:35:05", "2:35:05", "7:35:05", "17:35:05", "31:35:05", "51:35:05"]
    table.append("75:35:05")
    since_start, elapsed = [], timedelta()
    for pause in SCHEDULE:
        elapsed += pause
        minutes, seconds = divmod(int(elapsed.total_seconds()), 60)
        since_start.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}")
    assert since_start == table


@given(seed=st.integers(), attempt=st.integers(2, 10))
def test_jitter_lengthens_a_pause_by_up_to_a_fifth(seed: int, attempt: int) -> None:
    """Never earlier than the schedule says, and not much later."""
    delay = delay_before(attempt, random=Random(seed))
    assert delay is not None
    assert SCHEDULE[attempt - 1] <= delay <= SCHEDULE[attempt - 1] * 1.2


def test_messages_that_failed_together_do_not_come_back_together() -> None:
    """A hundred pauses are a hundred different ones, spread over most of their fifth."""
    random = Random(1)
    delays = [delay_before(4, random=random) for _ in range(100)]
    seconds = [delay.total_seconds() for delay in delays if delay]
    assert len(set(seconds)) == 100
    assert min(seconds) < 1800 * 1.02
    assert max(seconds) > 1800 * 1.18


def test_the_first_attempt_waits_for_nothing_and_the_eleventh_is_not_made() -> None:
    """Ten attempts in all, whatever the receiver asks for."""
    assert delay_before(1, random=Random(0)) == timedelta()
    assert delay_before(10, random=Random(0)) is not None
    assert delay_before(11, random=Random(0)) is None
    assert delay_before(11, random=Random(0), retry_after=timedelta(seconds=1)) is None
    with pytest.raises(ValueError, match="counted from 1"):
        delay_before(0, random=Random(0))


@pytest.mark.parametrize(
    ("attempt", "asked", "least"),
    [
        (2, timedelta(minutes=1), timedelta(minutes=1)),
        (4, timedelta(minutes=1), timedelta(minutes=30)),
        (2, timedelta(days=365), timedelta(hours=24)),
        (1, timedelta(minutes=1), timedelta(minutes=1)),
    ],
)
def test_a_receiver_may_ask_for_a_longer_pause_within_a_day(attempt: int, asked: timedelta, least: timedelta) -> None:
    """`Retry-After` is a floor: it shortens no pause, and a year is cut to the schedule's longest."""
    delays = [delay_before(attempt, random=Random(seed), retry_after=asked) for seed in range(50)]
    assert all(delay is not None and least <= delay <= least * 1.2 for delay in delays)


@pytest.mark.parametrize(
    ("text", "pause"),
    [
        ("120", timedelta(minutes=2)),
        (" 0 ", timedelta()),
        ("0" * 5000, LONGEST_PAUSE),
        ("9" * 5000, LONGEST_PAUSE),
        ("999999999", LONGEST_PAUSE),
        (format_datetime(_NOW + timedelta(minutes=3), usegmt=True), timedelta(minutes=3)),
        ("Mon, 04 May 2026 03:05:01 -0000", timedelta(minutes=3)),
        ("Monday, 04-May-26 03:05:01 GMT", timedelta(minutes=3)),
        ("Mon, 04 May 2026 02:00:00 GMT", timedelta()),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_PAUSE),
        ("Mon, 04 May 2026 02:00:00 +99999999999999999999", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, pause: timedelta | None) -> None:
    """Both forms of HTTP are read, bounded; anything else is as if it were not there."""
    assert parse_retry_after(text, now=_NOW) == pause


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ ([A-Z]{3}|[+-]\d+)"))
def test_no_header_breaks_the_reader(text: str) -> None:
    """Receivers may send what they like."""
    pause = parse_retry_after(text, now=_NOW)
    assert pause is None or timedelta() <= pause <= LONGEST_PAUSE


@pytest.mark.parametrize(
    ("status_code", "outcome"),
    [
        *((status, "delivered") for status in (200, 201, 202, 204, 299)),
        *((status, "failed") for status in (101, 199, 300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 502, 503)),
        (410, "disabled"),
        (None, "failed"),
    ],
)
def test_2xx_is_delivered_410_is_gone_and_all_else_is_a_failure(
    status_code: int | None, outcome: AttemptOutcome
) -> None:
    """Redirects too: they are not followed."""
    assert attempt_outcome(status_code) == outcome
