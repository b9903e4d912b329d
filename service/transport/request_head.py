"""The check of a request's head beyond the parser's: what is ambiguous is refused, and the connection closed.

A proxy, a cache or a filter in front of the service may read an ambiguous head differently (request smuggling).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

Header = tuple[bytes, bytes]

#: Request line and headers together, and what stands between two pieces of a chunked body.
HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
#: A file is looked for segment by segment; an id or a name has 200 characters at most.
MAX_PATH_BYTES = 4096
#: 30,000 of them take 70 ms to be read; routes take fewer still.
MAX_PARAMETERS = 1000
#: A length with more digits than 2^63 is padded with zeros.
_LENGTH_DIGITS = 19
#: Each of them decides something, and with two of them a proxy may decide by the other one.
_SINGLE = frozenset(
    {
        *(b"authorization", b"content-encoding", b"content-length", b"content-type", b"expect", b"host", b"origin"),
        *(b"idempotency-key", b"inference-header-content-length", b"last-event-id", b"range", b"sec-fetch-site"),
        *(b"traceparent", b"transfer-encoding", b"upload-checksum", b"upload-length", b"upload-offset"),
        *(b"x-request-id", b"x-request-timeout"),
    }
)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
#: Most clients send the same one.
_KNOWN_HOSTS: set[bytes] = set()
_MAX_KNOWN_HOSTS = 100
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%(?:2[Ff]|5[Cc]|[01][0-9A-Fa-f]|7[Ff])")


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that no application sees."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


def malformed(detail: str) -> Refusal:
    """The refusal of what is no HTTP/1.1, or is ambiguous."""
    return Refusal(400, "malformed_request", detail)


def too_long(url: bytes) -> Refusal:
    """The refusal of a head beyond the limit, of whose target this much was received."""
    if len(url) > HEAD_BYTES // 2:
        return Refusal(
            414, "uri_too_long", f"the request line is longer than {HEAD_BYTES} bytes; send JSON as the body"
        )
    return Refusal(431, "headers_too_large", f"request line and headers are longer than {HEAD_BYTES} bytes together")


def too_late(seconds: float) -> Refusal:
    """The refusal of a head that is not complete after so long."""
    return Refusal(408, "head_stalled", f"the head of the request was not whole {seconds:g} s after its first byte")


def too_many(reason: str) -> Refusal:
    """The refusal of a connection beyond a limit."""
    detail = f"{reason}; close idle connections and come again in 1 s"
    return Refusal(503, "too_many_connections", detail, {"Retry-After": "1"})


def fault(version: str, url: bytes, headers: Sequence[Header], by_name: Mapping[bytes, bytes]) -> Refusal | None:
    """Return what is wrong with a head, if anything; `by_name` holds the headers by name."""
    if version not in ("1.1", "1.0"):
        return Refusal(505, "http_version_not_supported", f"HTTP/{version} is not supported; send HTTP/1.1")
    if len(by_name) != len(headers) and (repeated := _repeated(headers)):
        return malformed(f"there are several headers {_shown(repeated)}; send one")
    if len(headers) > MAX_HEADERS:
        return Refusal(431, "headers_too_large", f"there are {len(headers)} headers; at most {MAX_HEADERS} are read")
    host = by_name.get(b"host")
    if host is None:
        if version == "1.1":
            return malformed("there is no header 'Host'; HTTP/1.1 needs one")
    elif host not in _KNOWN_HOSTS and not _is_host(host):
        return malformed("the header 'Host' is no host with an optional port")
    if b"transfer-encoding" in by_name and (wrong := _wrong_encoding(version, by_name)):
        return wrong
    if len(by_name.get(b"content-length", b"")) > _LENGTH_DIGITS:
        return malformed("'Content-Length' has more digits than any length")
    if b"expect" in by_name and by_name[b"expect"].lower() != b"100-continue":
        return Refusal(417, "expectation_failed", "the only supported expectation is '100-continue'")
    if len(url) > MAX_PATH_BYTES and (wrong := _excess(*url.split(b"?", 1))):
        return wrong
    if url[:1] != b"/" or b"%" in url or b"/." in url or b"#" in url:
        return _wrong_target(url, host)
    return None


def _excess(path: bytes, query: bytes = b"") -> Refusal | None:
    if len(path) > MAX_PATH_BYTES:
        return Refusal(414, "uri_too_long", f"the path is longer than {MAX_PATH_BYTES} bytes; ids and names are short")
    if query.count(b"&") >= MAX_PARAMETERS:
        message = f"the query has more than {MAX_PARAMETERS} parameters; expected one value for each known name"
        return Refusal(422, "too_many_parameters", message)
    return None


def _is_host(host: bytes) -> bool:
    is_host = _HOST.fullmatch(host) is not None
    if is_host and len(host) < 300 and len(_KNOWN_HOSTS) < _MAX_KNOWN_HOSTS:
        _KNOWN_HOSTS.add(host)
    return is_host


def _repeated(headers: Sequence[Header]) -> bytes | None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _SINGLE:
            return name
        seen.add(name)
    return None


def _wrong_encoding(version: str, by_name: Mapping[bytes, bytes]) -> Refusal | None:
    if version == "1.0":
        return malformed("'Transfer-Encoding' is not known to HTTP/1.0; send 'Content-Length'")
    if b"content-length" in by_name:
        return malformed("there are both 'Transfer-Encoding' and 'Content-Length'; send one of them")
    if by_name[b"transfer-encoding"].strip().lower() != b"chunked":
        return malformed("the only 'Transfer-Encoding' that is read is exactly 'chunked'")
    return None


def origin_form(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of a target that `fault` accepts.

    >>> origin_form(b"/v1/jobs?limit=1"), origin_form(b"http://localhost")
    ((b'/v1/jobs', b'limit=1'), (b'/', b''))
    """
    if url[:1] != b"/":
        url = url[_ABSOLUTE.match(url).end() :]  # type: ignore[union-attr]
    path, _, query = url.partition(b"?")
    return path or b"/", query


def _wrong_target(url: bytes, host: bytes | None) -> Refusal | None:
    if url[:1] != b"/":
        absolute = _ABSOLUTE.match(url)
        if absolute is None:
            return malformed("the target of the request must be a path that begins with '/'")
        if absolute[1].lower() != (host or b"").lower():
            return malformed("the target of the request names another host than 'Host'")
        url = url[absolute.end() :]
    if b"#" in url:
        return malformed("the target of the request holds a fragment ('#…')")
    path = url.partition(b"?")[0]
    if _BAD_ESCAPE.search(path):
        return malformed("the path holds an escaped slash or control character, or '%' without two hexadecimal digits")
    plain = unquote_to_bytes(path)
    if b"/." in plain and not {b".", b".."}.isdisjoint(plain.split(b"/")):
        return malformed("the path holds '.' or '..' as a segment; send the path without them")
    try:
        plain.decode()
    except UnicodeDecodeError:
        return malformed("the path is not UTF-8")
    return None


def without_upgrade(method: bytes, url: bytes, version: str, headers: Sequence[Header]) -> bytes:
    """The head of a request without its upgrade, which a server may ignore (RFC 9110, 7.8)."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            kept = [
                token for token in value.split(b",") if token.strip().lower() not in (b"upgrade", b"http2-settings")
            ]
            value = b",".join(kept).strip()
        if name not in (b"upgrade", b"http2-settings") and (value or name != b"connection"):
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def _shown(name: bytes) -> str:
    return repr("-".join(part.capitalize() for part in name.decode("latin-1").split("-")))
