"""Webhooks: the messages about a job's end, their secrets and their addresses; nothing is sent here.

Secret, message and header names are those of the specification (https://www.standardwebhooks.com, 1.0.0). Everything
raised is a ValueError with a sentence for the sender; none repeats a secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import Field

from fedlas.contract.base import OPEN, Shape

Address = IPv4Address | IPv6Address

_SECRET_PREFIX = "whsec_"
_MIN_KEY_BYTES = 24
_MAX_KEY_BYTES = 64
_EVENT_TYPE = re.compile(r"[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)*")

# Own expressions instead of a URL library: those differ in what they repair, and the check of a URL must read it as the
# connection does. What is not plainly a URL of RFC 3986 is refused.
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = {"https": 443, "http": 80}


class JobMessage(Shape):
    """A message about the end of a job."""

    type: Annotated[Literal["job.succeeded", "job.failed", "job.cancelled"], OPEN]
    timestamp: datetime | None = None
    data: dict[str, Any] = Field(default_factory=dict, description="The job's record, in short.")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook's URL, taken apart: `host` is a lower-case name, or an address without brackets."""

    secure: bool
    host: str
    port: int
    target: str

    @property
    def address(self) -> Address | None:
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """The `Host` header: an IPv6 address in brackets, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


def parse_secret(text: str) -> bytes:
    """Return the key of a secret, `whsec_` and 24 to 64 bytes in base64; raises ValueError.

    >>> len(parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    24
    """
    if not text.startswith(_SECRET_PREFIX):
        raise ValueError(f"a webhook's secret must begin with {_SECRET_PREFIX}")
    encoded = text.removeprefix(_SECRET_PREFIX)
    try:
        # Padding may be missing, as the reference libraries allow; other characters they skip, silently.
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a webhook's secret must be base64 after {_SECRET_PREFIX}") from None
    if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise ValueError(
            f"a webhook's secret must hold {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} bytes in base64; it holds {len(key)}"
        )
    return key


def payload(event_type: str, timestamp: datetime, data: Mapping[str, object]) -> bytes:
    """Return the message of an event as compact JSON in ASCII: the very bytes to be signed and sent.

    Args:
        event_type: Identifiers joined by full stops, `job.succeeded`.
        timestamp: When it happened (not when it is sent), with a time zone.
        data: What JSON can hold; no NaN or infinity.

    Raises:
        ValueError: for anything else.

    >>> payload("job.failed", datetime(2026, 5, 4, tzinfo=UTC), {"id": "job_1"})
    b'{"type":"job.failed","timestamp":"2026-05-04T00:00:00.000000Z","data":{"id":"job_1"}}'
    """
    if not _EVENT_TYPE.fullmatch(event_type):
        raise ValueError(f"an event's type is identifiers joined by full stops, not {event_type!r}")
    if timestamp.tzinfo is None:
        raise ValueError("an event's timestamp needs a time zone")
    moment = timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    message = {"type": event_type, "timestamp": moment, "data": data}
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_url(text: str) -> Endpoint:
    """Take a webhook's URL apart; raises ValueError for what is not plainly one.

    Any port goes: the address decides what is safe. Names are accepted in ASCII only (`xn--`),
    since two versions of IDNA disagree on some; IPv4 addresses as four decimal numbers only, since resolvers read
    `2130706433`, `0x7f.1` and `0177.0.0.1` as 127.0.0.1.

    >>> parse_url("https://example.org:8443/hook?team=x")
    Endpoint(secure=True, host='example.org', port=8443, target='/hook?team=x')
    """
    if not _CHARACTERS.fullmatch(text):
        raise ValueError(
            "a webhook's URL may hold only the ASCII characters of URLs; write others percent-encoded, names as xn--"
        )
    if "#" in text:
        raise ValueError("a webhook's URL must have no fragment (#…): it is never sent")
    parts = _URL.fullmatch(text)
    if parts is None or parts["scheme"].lower() not in _PORTS:
        raise ValueError("a webhook's URL must begin with https:// (or http:// where the operator allows it)")
    if "@" in parts["authority"]:
        raise ValueError("a webhook's URL must have no user or password; messages are signed with the secret instead")
    scheme, authority = parts["scheme"].lower(), _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise ValueError("the host or the port of the webhook's URL is malformed")
    port = int(authority["port"] or _PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ValueError(f"the port of a webhook's URL must be 1 to 65535, not {port}")
    target = (parts["path"] or "/") + (parts["query"] or "")
    return Endpoint(scheme == "https", _host(authority["host"].lower()), port, target)


def _host(text: str) -> str:
    """The name, or the address in its one usual spelling."""
    if text.startswith("["):
        if "%" in text:
            raise ValueError("an IPv6 address in a webhook's URL must have no zone (%…)")
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(f"{text} in the webhook's URL is no IPv6 address") from None
    if text.endswith("."):
        raise ValueError("the host of a webhook's URL must not end with a full stop")
    if _NUMERIC_LABEL.fullmatch(text.rpartition(".")[2]):
        try:
            return str(IPv4Address(text))
        except ValueError:
            raise ValueError("an IPv4 address in a webhook's URL must be four decimal numbers, 192.0.2.1") from None
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} in the webhook's URL is no host name")
    return text
