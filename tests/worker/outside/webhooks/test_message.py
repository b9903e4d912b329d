"""Secrets, messages and signatures of webhooks, judged by the reference library; repetitions and answers."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from fedlas import __version__
from fedlas.contract.webhooks import parse_secret, payload
from worker.outside.kinds.delivery import (
    MAX_PAUSE,
    SCHEDULE,
    AttemptOutcome,
    attempt_outcome,
    delay_before,
    parse_retry_after,
    signed_headers,
)

_KEY = bytes(range(32))
_SECRET = "whsec_" + base64.b64encode(_KEY).decode()
_MOMENT = datetime(2026, 5, 4, 3, 2, 1, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("length", [24, 25, 26, 64])
@pytest.mark.parametrize("padding", ["", "="])
def test_a_secret_is_24_to_64_bytes_with_or_without_padding(length: int, padding: str) -> None:
    """Every allowed length is read, and the padding of base64 may be left out, as reference libraries do."""
    encoded = base64.b64encode(bytes(range(length))).decode()
    text = encoded if padding else encoded.rstrip("=")
    assert parse_secret(f"whsec_{text}") == bytes(range(length))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with whsec_"),
        (base64.b64encode(_KEY).decode(), "must begin with whsec_"),
        ("whpk_" + base64.b64encode(_KEY).decode(), "must begin with whsec_"),
        (f" {_SECRET}", "must begin with whsec_"),
        (f"{_SECRET}\n", "must be base64"),
        ("whsec_not base64 at all, really, not at all", "must be base64"),
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "must be base64"),
        ("whsec_ümlaute-ümlaute-ümlaute-ümlaute", "must be base64"),
        ("whsec_" + "A" * 33, "must be base64"),
        ("whsec_", "24 to 64 bytes in base64; it holds 0"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "24 to 64 bytes in base64; it holds 23"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "24 to 64 bytes in base64; it holds 65"),
    ],
)
def test_what_is_no_secret_is_told_so_without_repeating_it(text: str, reason: str) -> None:
    """The sentence says what is needed, and the secret does not stand in it."""
    with pytest.raises(ValueError, match=reason) as raised:
        parse_secret(text)
    rest = text.strip().removeprefix("whsec_")
    assert not rest or rest not in str(raised.value)


def test_the_signature_is_the_one_published_for_the_standards_example() -> None:
    """Id, timestamp, body and secret of the reference libraries' tests give their signature."""
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    assert headers == {
        "content-type": "application/json",
        "user-agent": f"fedlas/{__version__}",
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(
    key=st.binary(min_size=24, max_size=64),
    message_id=st.from_regex(r"msg_[a-z0-9]{1,40}", fullmatch=True),
    data=st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.floats(allow_nan=False), max_size=4),
    hours=st.integers(-12, 14),
)
def test_the_reference_accepts_every_message(key: bytes, message_id: str, data: dict[str, object], hours: int) -> None:
    """Whatever secret, id, content and time zone: the receiver's library verifies it and reads the message."""
    data = {name: value for name, value in data.items() if value not in (float("inf"), float("-inf"))}
    body = payload("job.succeeded", _MOMENT, data)
    now = datetime.now(timezone(timedelta(hours=hours)))
    secret = "whsec_" + base64.b64encode(key).decode()
    assert Webhook(secret).verify(body, signed_headers(message_id, now, body, secret)) == {
        "type": "job.succeeded",
        "timestamp": "2026-05-04T03:02:01.500000Z",
        "data": data,
    }


def test_a_time_without_zone_is_refused() -> None:
    """Python would read it as the local time of whichever machine runs."""
    naive = _MOMENT.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        payload("job.failed", naive, {})


def test_a_message_is_the_same_bytes_each_time_and_ascii() -> None:
    """Compact, in the given order, with the event's time in UTC: nothing on the way has a reason to re-encode it."""
    moment = _MOMENT.astimezone(timezone(timedelta(hours=2)))
    body = payload("job.failed", moment, {"id": "job_1", "error": {"message": "größer – \ud800"}, "serves": None})
    assert body == (
        b'{"type":"job.failed","timestamp":"2026-05-04T03:02:01.500000Z","data":{"id":"job_1","error":'
        b'{"message":"gr\\u00f6\\u00dfer \\u2013 \\ud800"},"serves":null}}'
    )
    assert json.loads(body)["data"]["id"] == "job_1"


@pytest.mark.parametrize("event_type", ["", "job.", ".job", "job..failed", "job failed", "job-failed", "job.failed\n"])
def test_an_event_type_is_identifiers_joined_by_full_stops(event_type: str) -> None:
    """The specification's alphabet, nothing else."""
    with pytest.raises(ValueError, match="identifiers joined by full stops"):
        payload(event_type, _MOMENT, {})


def test_a_message_that_json_cannot_hold_is_refused() -> None:
    """NaN is no JSON: a receiver could not read the message."""
    with pytest.raises(ValueError, match="JSON"):
        payload("job.failed", _MOMENT, {"loss": float("nan")})


_NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def test_the_schedule_is_the_specifications() -> None:
    """The schedule is the table "time since start", in hours, minutes and seconds."""
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
        ("0" * 5000, MAX_PAUSE),
        ("9" * 5000, MAX_PAUSE),
        ("999999999", MAX_PAUSE),
        (format_datetime(_NOW + timedelta(minutes=3), usegmt=True), timedelta(minutes=3)),
        ("Mon, 04 May 2026 03:05:01 -0000", timedelta(minutes=3)),
        ("Monday, 04-May-26 03:05:01 GMT", timedelta(minutes=3)),
        ("Mon, 04 May 2026 02:00:00 GMT", timedelta()),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_PAUSE),
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
    assert pause is None or timedelta() <= pause <= MAX_PAUSE


@pytest.mark.parametrize(
    ("status_code", "outcome"),
    [
        *((status, "delivered") for status in (200, 201, 202, 204, 299)),
        *((status, "failed") for status in (101, 199, 300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 502, 503)),
        (410, "disabled"),
        (None, "failed"),
    ],
)
def test_2xx_is_delivered_410_is_gone_and_all_else_fails(status_code: int | None, outcome: AttemptOutcome) -> None:
    """Redirects too: they are not followed."""
    assert attempt_outcome(status_code) == outcome
