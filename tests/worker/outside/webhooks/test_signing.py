"""Secrets, messages and signatures of webhooks, judged by the reference library of Standard Webhooks."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from fedlas import __version__
from service.registry.webhooks import parse_secret, payload
from worker.outside.webhooks.signing import signed_headers

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
def test_the_reference_library_accepts_every_message(
    key: bytes, message_id: str, data: dict[str, object], hours: int
) -> None:
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


@pytest.mark.parametrize("message_id", ["", "msg.1", "msg 1", "msg_1\n", "mßg", "m" * 101])
def test_an_id_that_could_move_the_borders_of_what_is_signed_is_refused(message_id: str) -> None:
    """The specification forbids full stops in ids; line breaks would end the header."""
    with pytest.raises(ValueError, match="letters, digits"):
        signed_headers(message_id, _MOMENT, b"{}", _SECRET)


def test_a_time_without_zone_is_refused() -> None:
    """Python would read it as the local time of whichever machine runs."""
    naive = _MOMENT.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        signed_headers("msg_1", naive, b"{}", _SECRET)
    with pytest.raises(ValueError, match="time zone"):
        payload("job.failed", naive, {})


def test_a_message_is_the_same_bytes_each_time_and_ascii() -> None:
    """Compact, in the given order, with the event's time in UTC: nothing on the way has a reason to re-encode it."""
    moment = _MOMENT.astimezone(timezone(timedelta(hours=2)))
    body = payload("job.failed", moment, {"id": "job_1", "error": {"message": "größer – \ud800"}, "promoted": None})
    assert body == (
        b'{"type":"job.failed","timestamp":"2026-05-04T03:02:01.500000Z","data":{"id":"job_1","error":'
        b'{"message":"gr\\u00f6\\u00dfer \\u2013 \\ud800"},"promoted":null}}'
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
