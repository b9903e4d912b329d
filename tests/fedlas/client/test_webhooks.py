"""Messages to webhooks are believed only where this service signed them, and now."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from fedlas.client.errors import InvalidInput, SignatureError
from fedlas.client.webhooks import verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
BODY = '{"type":"job.failed","timestamp":"2026-05-04T10:00:00Z","data":{"id":"job_1"}}'
NOW = 1_777_888_800


def headers(secret: str = SECRET, *, at: int = NOW, body: str = BODY) -> dict[str, str]:
    """The headers that the reference library signs."""
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), body)
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(at), "Webhook-Signature": signature}


def test_a_signed_message_is_read() -> None:
    """Headers are read under any capitals, with signatures of other secrets and versions beside the right one."""
    event = verify(SECRET, headers(), BODY.encode(), now=NOW + 299)
    assert (event.type, event.data) == ("job.failed", {"id": "job_1"})
    many = headers()
    many["Webhook-Signature"] = f"v1a,xyz v1,!! {headers(OTHER)['Webhook-Signature']} {many['Webhook-Signature']}"
    assert verify(SECRET, many, BODY, now=NOW).type == "job.failed"


@pytest.mark.parametrize(
    ("given", "body", "sentence"),
    [
        (headers(OTHER), BODY, "no signature of the request was made with this secret"),
        (headers(), BODY.replace("failed", "succeeded"), "no signature of the request"),
        ({**headers(), "Webhook-Id": "msg_2"}, BODY, "no signature of the request"),
        (headers(at=NOW - 400), BODY, "the message is 400 s old; at most 300 s are allowed"),
        (headers(at=NOW + 400), BODY, "the message is 400 s ahead"),
        ({**headers(), "Webhook-Timestamp": "nan"}, BODY, "webhook-timestamp is no number of seconds: 'nan'"),
        ({**headers(), "Webhook-Timestamp": "noon"}, BODY, "webhook-timestamp is no number of seconds: 'noon'"),
        ({**headers(), "Webhook-Timestamp": "9" * 400}, BODY, "webhook-timestamp is no number of seconds"),
        ({**headers(), "Webhook-Id": "\ud800"}, BODY, "no signature of the request"),
        ({"Webhook-Id": "msg_1"}, BODY, "the request has no header webhook-timestamp"),
        (headers(body="[1]"), "[1]", "the message is signed, but it is no event of a job"),
    ],
)
def test_anything_else_is_refused(given: dict[str, str], body: str, sentence: str) -> None:
    """A wrong secret, body, id or time is refused, each in a sentence."""
    with pytest.raises(SignatureError, match=sentence):
        verify(SECRET, given, body, now=NOW)


def test_a_secret_that_is_none_verifies_nothing() -> None:
    """An empty key would be everybody's."""
    for secret in ("whsec_", "whsec_ümlaut", "password"):
        with pytest.raises(SignatureError, match="secret"):
            verify(secret, headers(), BODY, now=NOW)
    with pytest.raises(InvalidInput, match="no secret is given"):
        verify("", headers(), BODY, now=NOW)
    with pytest.raises(InvalidInput, match="the body is of type dict; expected its bytes as they came"):
        verify(SECRET, headers(), {"type": "job.failed"}, now=NOW)  # type: ignore[arg-type]
