"""Webhooks: messages of the service, verified as Standard Webhooks (standardwebhooks.com) says."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

from pydantic import ValidationError

from fedlas.client.errors import InvalidInput, SignatureError
from fedlas.contract.base import ANOTHER_VERSION
from fedlas.contract.webhooks import JobMessage, parse_secret

#: Messages that are older, or from the future, may be sent again by somebody who overheard them.
_TOLERANCE_S = 300.0


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    tolerance_seconds: float = _TOLERANCE_S,
    now: float | None = None,
) -> JobMessage:
    """The message, if this service signed it with the secret and it is of now; raises SignatureError.

    Args:
        secret: `whsec_…`, as it was given with the job.
        headers: of the request, under any capitals.
        body: as it came, byte for byte.
        tolerance_seconds: how far the clocks may be apart.
        now: the time, for tests.
    """
    if not secret:
        raise InvalidInput("no_secret", "no secret is given: it is the one of the job's webhook, whsec_…")
    if not isinstance(body, str | bytes | bytearray):
        raise InvalidInput("bad_body", f"the body is of type {type(body).__name__}; expected its bytes as they came")
    content = body.encode(errors="surrogatepass") if isinstance(body, str) else bytes(body)
    by_name = {name.lower(): value for name, value in headers.items()}
    if missing := [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if name not in by_name]:
        raise SignatureError("missing_header", f"the request has no header {missing[0]}")
    _check_time(by_name["webhook-timestamp"], time.time() if now is None else now, tolerance_seconds)
    signed = f"{by_name['webhook-id']}.{by_name['webhook-timestamp']}.".encode(errors="surrogatepass") + content
    expected = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    if not any(hmac.compare_digest(expected, one) for one in _signatures(by_name["webhook-signature"])):
        raise SignatureError("wrong_signature", "no signature of the request was made with this secret")
    try:
        return JobMessage.model_validate_json(content, extra="allow", context=ANOTHER_VERSION)
    except ValidationError:
        raise SignatureError("unreadable_message", "the message is signed, but it is no event of a job") from None


def _check_time(text: str, now: float, tolerance: float) -> None:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise SignatureError("wrong_timestamp", f"webhook-timestamp is no number of seconds: {text[:40]!r}")
    age = now - int(text)
    if abs(age) > tolerance:
        how = f"{age:.0f} s old" if age > 0 else f"{-age:.0f} s ahead"
        raise SignatureError("wrong_timestamp", f"the message is {how}; at most {tolerance:.0f} s are allowed")


def _key(secret: str) -> bytes:
    try:
        return parse_secret(secret)
    except ValueError as error:
        raise SignatureError("bad_secret", str(error)) from None


def _signatures(text: str) -> list[bytes]:
    """Signatures of version 1; others may stand beside them."""
    signatures = []
    for part in text.split():
        version, _, encoded = part.partition(",")
        if version == "v1":
            try:
                signatures.append(base64.b64decode(encoded, validate=True))
            except (binascii.Error, ValueError):
                continue
    return signatures
