"""Requests that two readers would read differently, to a real API process: refused, on both roads."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.helpers.backends import place
from tests.helpers.live_api import LiveApi, live
from tests.helpers.plain_http import Answer, answers, ask, connected, one, received
from tests.helpers.walled import WalledApi, walled

pytestmark = pytest.mark.slow

KEY = b"Authorization: Bearer the-right-key-of-all-0123456789a\r\n"
#: Both roads, and the protocol with errors of its own.
ROADS = (b"/v1/models/m/predict", b"/v1/names", b"/v2/models/m/infer")
MALFORMED = (400, "malformed_request")


@pytest.fixture(scope="module", params=["in one process", "behind a wall"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi | WalledApi]:
    """An API with a key, in both forms."""
    data_dir = tmp_path_factory.mktemp("meaning") / "data"
    if request.param == "behind a wall":
        with walled(data_dir, api_keys="the-right-key-of-all-0123456789a") as behind:
            yield behind
    else:
        with place(data_dir) as where, live({**where, "api_keys": "the-right-key-of-all-0123456789a"}) as (found,):
            yield found


def asked(api: LiveApi | WalledApi, head: bytes, rest: bytes = b"") -> Answer:
    """The only answer to what is no request, with the connection closed."""
    (answer,) = ask(api.port, head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + rest)
    assert answer.headers["connection"] == "close"
    return answer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer the-right-key-of-all-0123456789a"),
        ("Host", "localhost"),
        ("Content-Type", "application/json"),
        ("X-Request-Timeout", "1"),
        ("Inference-Header-Content-Length", "2"),
        ("Idempotency-Key", "a"),
        ("Content-Encoding", "gzip"),
        ("X-Request-Id", "a"),
        ("Upload-Offset", "0"),
        ("Origin", "http://localhost"),
        ("Sec-Fetch-Site", "none"),
        ("Expect", "100-continue"),
    ],
)
def test_what_decides_stands_once(api: LiveApi | WalledApi, name: str, value: str) -> None:
    """Two headers of a kind that decides something are 400 on every road, though both may say the same."""
    line = f"{name}: {value}\r\n".encode()
    host = b"" if name == "Host" else b"Host: localhost\r\n"
    for path in ROADS:
        (answer,) = ask(api.port, b"POST " + path + b" HTTP/1.1\r\n" + host + line + line.lower() + b"\r\n")
        assert answer.status == 400
        detail = answer.json["error"] if path.startswith(b"/v2") else answer.json["detail"]
        assert f"several headers '{name}'" in detail
        assert path.startswith(b"/v2") or answer.told == MALFORMED


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"GET /healthz HTTP/1.1", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: ", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a b", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a/b", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: u@a", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a\nX: one\n two", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a\nX: a\0b", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a\nX: a\rb", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost : a", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a\nContent-Length: " + b"0" * 5000 + b"3", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999", MALFORMED),
        (b"GET /healthz HTTP/1.1\nHost: a\nContent-Length: 1\nContent-Length: 1", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nTransfer-Encoding: identity", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nTransfer-Encoding: chunked;q=1", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 3", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked", MALFORMED),
        (b"POST /healthz HTTP/1.0\nHost: a\nTransfer-Encoding: chunked", MALFORMED),
        (b"POST /healthz HTTP/1.1\nHost: a\nExpect: a-pony", (417, "expectation_failed")),
        (b"POST /healthz HTTP/1.1\nHost: a\nExpect: 100-continue, a-pony", (417, "expectation_failed")),
        (b"GET /healthz HTTP/2.0\nHost: a", (505, "http_version_not_supported")),
        (b"GET /healthz", (505, "http_version_not_supported")),
        (b"PRI * HTTP/2.0", MALFORMED),
        (b"CONNECT a:80 HTTP/1.1\nHost: a", MALFORMED),
        (b"CONNECT /v1/models HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /static-offline-docs" + b"/a" * 2100 + b" HTTP/1.1\nHost: a", (414, "uri_too_long")),
        (b"GET /sign-in?" + b"a&" * 5000 + b" HTTP/1.1\nHost: a", (422, "too_many_parameters")),
        (b"OPTIONS * HTTP/1.1\nHost: a", MALFORMED),
        (b"GET http://b/healthz HTTP/1.1\nHost: a", MALFORMED),
        (b"GET http://u@a/healthz HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /healthz#a HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /static-offline-docs/../v1/models HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /static-offline-docs/%2e%2e/v1/models HTTP/1.1\nHost: a", MALFORMED),
        (b"POST /v1/models%2Fm%2fpredict HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /v1/names/%5c HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /v1/names/a%00 HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /v1/names/a%0d%0ab HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /v1/names/%zz HTTP/1.1\nHost: a", MALFORMED),
        (b"GET /v1/names/%ff HTTP/1.1\nHost: a", MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", MALFORMED),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
def test_what_is_no_request(api: LiveApi | WalledApi, head: bytes, told: tuple[int, str]) -> None:
    """Ambiguous or malformed heads are answered as problems, and nothing behind them is read."""
    assert asked(api, head, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").told == told


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.0\n",
        b"GET /healthz HTTP/1.0\nConnection: keep-alive",
        b"GET http://a:80/healthz HTTP/1.1\nHost: A:80\nConnection: close",
        b"GET /healthz?a=/../%2F%00 HTTP/1.1\nHost: [::1]:80\nConnection: close",
        b"GET /healthz HTTP/1.1\nHost: a\nConnection: TE, close\nTE: trailers",
        b"GET /healthz HTTP/1.1\nHost: a\nAccept: a/b\nAccept: */*\nVia: b\nVia: c\nConnection: close",
        b"GET /healthz HTTP/1.1\nHost: a\nX-Utf8: \xc3\xa9\nConnection: close",
    ],
)
def test_what_is_a_request(api: LiveApi | WalledApi, head: bytes) -> None:
    """A request that has one meaning is answered."""
    (answer,) = ask(api.port, head.rstrip(b"\n").replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert answer.headers["connection"] == "close"


def test_trailers_are_no_headers(api: LiveApi | WalledApi) -> None:
    """Trailers of a chunked body change nothing: neither this request's key and id, nor the next one's."""
    head = b"POST /v1/models HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%b\r\n3\r\nabc\r\n"
    trailers = b"0\r\nAuthorization: Bearer %b\r\nX-Request-Id: trailer\r\n\r\n"
    with connected(api.port) as found:
        found.sendall(head % b"")
        time.sleep(0.1)
        found.sendall(trailers % b"the-right-key-of-all-0123456789a")
        assert [answer.told for answer in answers(received(found))] == [(401, "unauthorized")]
    with connected(api.port) as found:
        found.sendall(head % b"" + trailers % b"the-right-key-of-all-0123456789a")
        assert one(found).told == (401, "unauthorized")
        found.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one(found).told == (401, "unauthorized")
        found.sendall(head % (KEY + b"X-Request-Id: head\r\n") + trailers % b"wrong")
        answer = one(found)
        assert (answer.status, answer.json["bytes"], answer.headers["x-request-id"]) == (201, 3, "head")


def test_an_upgrade_is_ignored(api: LiveApi | WalledApi) -> None:
    """An upgrade to WebSocket or HTTP/2 is answered in HTTP/1.1, with a body too, and so is the next request."""
    upgrade = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABk\r\n"
    for other in (b"websocket", b"h2c"):
        with connected(api.port) as found:
            for _ in range(2):
                found.sendall(b"GET /healthz HTTP/1.1\r\n" + upgrade % other + b"\r\n")
                assert one(found).json == {"status": "ok"}
            head = b"POST /v1/models?name=upgraded HTTP/1.1\r\n" + KEY + upgrade % other
            found.sendall(head + b"Content-Length: 3\r\n\r\nabcGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = one(found)
            assert (answer.status, answer.json["bytes"]) == (201, 3)
            assert one(found).json == {"status": "ok"}
            found.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            found.sendall(b"5\r\nabcde\r\n0\r\n\r\n")
            assert one(found).json["bytes"] == 5


def test_who_has_ended_its_side_is_answered(api: LiveApi | WalledApi) -> None:
    """A request, and nothing will follow: answered, then closed; a long poll too, and a body is taken."""
    head = b" HTTP/1.1\r\nHost: a\r\n" + KEY
    (health,) = ask(api.port, b"GET /healthz" + head + b"\r\n", ends=True)
    assert health.json == {"status": "ok"}
    (made,) = ask(api.port, b"POST /v1/models" + head + b"Content-Length: 3\r\n\r\n", b"abc", ends=True)
    assert made.status == 201  # the end may come behind the answer, which then does not announce it
    (polled,) = ask(api.port, b"GET /v1/models/" + made.json["id"].encode() + b"?wait=2" + head + b"\r\n", ends=True)
    assert (polled.status, polled.json["status"]) == (200, "inspecting")
    several = ask(api.port, (b"GET /healthz" + head + b"\r\n") * 3, ends=True)
    assert [answer.status for answer in several] == [200, 200, 200]


@pytest.mark.parametrize(
    "half",
    [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"POST /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY],
)
def test_half_a_request_and_no_more(api: LiveApi | WalledApi, half: bytes) -> None:
    """A connection whose client ends its side before the request is whole is closed, without an answer."""
    if half.startswith(b"POST"):
        half += b"Content-Length: 3\r\n\r\nab"
    with connected(api.port) as found:
        found.sendall(half)
        found.shutdown(socket.SHUT_WR)
        assert received(found) == b""


def test_no_redirect_leads_away(api: LiveApi | WalledApi) -> None:
    """A slash too many is 404, and never a redirect to wherever `Host` says."""
    for path in (b"/v1/models/", b"//evil.example/", b"/healthz/"):
        (answer,) = ask(
            api.port, b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n" + KEY + b"\r\n"
        )
        assert (answer.status, "location" in answer.headers) == (404, False)


def test_ids_split_no_answer(api: LiveApi | WalledApi) -> None:
    """A request id with anything but letters, digits and marks is replaced, not echoed."""
    for given in (b"a b", b"a\tb", b"\xc4\x8d\xc4\x8a", b"a" * 101):
        (answer,) = ask(
            api.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-Id: " + given + b"\r\n\r\n"
        )
        assert answer.headers["x-request-id"].startswith("req_")
