"""Deliveries to real servers on loopback: what is sent, what is never dialled, and what bad receivers cannot do."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network

import pytest
import trustme
from standardwebhooks import Webhook

from fedlas.contract.webhooks import payload
from service.registry.webhooks import Policy
from tests.helpers.answering import Receiver, Script, headers_of, receiving
from worker.outside.kinds.delivery import WebhookResponse, attempt_outcome, deliver, signed_headers

_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_LOOPBACK = Policy(allow_private=True)
_NAME = "receiver.test"  # RFC 6761: no real name server knows it
_SHORT_S = 0.5
#: How long a bad receiver goes on, at most; who waits for its end gets the answer that the test forbids.
_DRIPS, _PAUSE_S = 200, 0.05


def _says(answer: bytes) -> Script:
    return lambda sock: sock.sendall(answer)


Start = Callable[..., Receiver]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts receivers, which end with the test."""
    with ExitStack() as ending:
        yield lambda *script, **options: ending.enter_context(receiving(*script, **options))


class Names:
    """A name server whose every answer is the next of those given, the last one for ever; it counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def _send(
    receiver: Receiver | int,
    *,
    scheme: str = "http",
    host: str = "127.0.0.1",
    target: str = "/hook?a=b",
    policy: Policy = _LOOPBACK,
    seconds: float = 20,
    names: Callable[[str], Sequence[str]] | None = None,
    tls: ssl.SSLContext | None = None,
    body: bytes = b"{}",
) -> WebhookResponse:
    port = receiver if isinstance(receiver, int) else receiver.port
    headers = signed_headers("msg_1", datetime.now(UTC), body, _SECRET)
    names = names or Names(["127.0.0.1"])
    url = f"{scheme}://{host}:{port}{target}"
    return deliver(url, headers, body, policy=policy, seconds=seconds, resolver=names, tls=tls)


def test_the_receiver_gets_what_was_signed_and_can_verify_it(start: Start) -> None:
    """One POST with the standard's headers, the exact bytes and the name as host; the reference library agrees."""
    receiver = start()
    body = payload("job.succeeded", datetime.now(UTC), {"id": "job_1", "note": "größer"})
    answer = _send(receiver, host=_NAME, body=body)
    assert (answer.status_code, answer.retry_after, answer.error) == (200, None, None)
    (request,) = receiver.requests
    head, _, sent = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert sent == body
    headers = headers_of(request)
    assert headers["host"] == f"{_NAME}:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert set(headers) == {
        *("host", "content-type", "user-agent", "content-length", "connection"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    }
    assert Webhook(_SECRET).verify(sent, headers)["data"] == {"id": "job_1", "note": "größer"}


def test_ipv6_receivers_are_reached(start: Start) -> None:
    """A receiver is reached by address, with brackets in the `Host` header, and by name."""
    try:
        receiver = start(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert _send(receiver, host="[::1]").status_code == 200
    assert _send(receiver, host=_NAME, names=Names(["::1"])).status_code == 200
    assert headers_of(receiver.requests[0])["host"] == f"[::1]:{receiver.port}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that only tests trust."""
    return trustme.CA()


def _server_side(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def _client_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_over_tls_the_name_is_verified_though_the_address_is_dialled(start: Start, authority: trustme.CA) -> None:
    """SNI, certificate and `Host` are the name's: a receiver behind a shared address works."""
    server = _server_side(authority, _NAME)
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    receiver = start(tls=server)
    answer = _send(receiver, scheme="https", host=_NAME, tls=_client_side(authority))
    assert (answer.status_code, answer.error) == (200, None)
    assert asked == [_NAME]
    assert headers_of(receiver.requests[0])["host"] == f"{_NAME}:{receiver.port}"


def test_a_certificate_for_an_address_is_verified_too(start: Start, authority: trustme.CA) -> None:
    """An https URL may name an address if its certificate does."""
    receiver = start(tls=_server_side(authority, "127.0.0.1"))
    assert _send(receiver, scheme="https", tls=_client_side(authority)).status_code == 200


@pytest.mark.parametrize(
    ("named", "trusts", "reason"),
    [
        ("other.test", True, "certificate is not trusted: Hostname mismatch"),
        (_NAME, False, "certificate is not trusted: "),
    ],
)
def test_nothing_is_sent_to_a_receiver_without_a_trusted_certificate(
    start: Start, authority: trustme.CA, named: str, trusts: bool, reason: str
) -> None:
    """A certificate of another name, or (with the default trust) of an unknown authority, gets nothing."""
    receiver = start(tls=_server_side(authority, named))
    answer = _send(receiver, scheme="https", host=_NAME, tls=_client_side(authority) if trusts else None)
    assert answer.status_code is None
    assert reason in str(answer.error)
    assert receiver.requests == []


def test_https_to_a_server_without_tls_is_told_so(start: Start) -> None:
    """A frequent mistake in URLs."""
    answer = _send(start(_says(_OK * 3), reads=False), scheme="https")
    assert answer.status_code is None
    assert "TLS failed" in str(answer.error)


_REFUSED = {
    "127.0.0.1": "a loopback address",
    "::1": "a loopback address",
    "10.0.0.1": "a private address",
    "172.16.0.1": "a private address",
    "192.168.1.1": "a private address",
    "100.64.0.1": "a private address",
    "fd12::1": "a private address",
    "::ffff:127.0.0.1": "a loopback address",
    "64:ff9b::7f00:1": "a loopback address",
    "::127.0.0.1": "a tunnel to an IPv4 address",
    "2002:7f00:1::": "a tunnel to an IPv4 address",
    "2001:0:4136:e378:8000:63bf:80ff:fffe": "a tunnel to an IPv4 address",
    "169.254.169.254": "a cloud's metadata service",
    "169.254.1.1": "a link-local address",
    "fe80::1%1": "a link-local address",
    "0.0.0.0": "an unspecified address",
    "0.0.0.7": "an unspecified address",
    "::": "an unspecified address",
    "224.0.0.1": "a multicast address",
    "255.255.255.255": "a reserved address",
    "240.0.0.1": "a reserved address",
}


@pytest.mark.parametrize("address", _REFUSED)
def test_names_of_closed_addresses_are_refused_without_a_packet(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Every class of address is named by its kind, not by its number, and no socket is made."""
    made = _watch_sockets(monkeypatch)
    answer = _send(443, scheme="https", host=_NAME, policy=Policy(), names=Names([address]))
    assert answer.status_code is None
    assert answer.error == f"no webhook may be sent to {_NAME}: it is {_REFUSED[address]}"
    assert made == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"])
def test_urls_of_closed_addresses_are_refused_without_a_question(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """An address needs no name server, and is judged all the same."""
    made, names = _watch_sockets(monkeypatch), Names(["8.8.8.8"])
    answer = _send(443, scheme="https", host=host, policy=Policy(), names=names)
    assert str(answer.error).startswith("no webhook may be sent to ")
    assert (made, names.asked) == ([], [])


def _watch_sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The sockets that this process makes from now on."""
    made: list[object] = []
    original = socket.socket.__init__

    def _init(self: socket.socket, *args: int, **options: object) -> None:
        made.append(args)
        original(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "__init__", _init)
    return made


@contextmanager
def _two_receivers(start: Start) -> Iterator[tuple[Receiver, Receiver]]:
    """On one port of two addresses, 127.0.0.1 and 127.0.0.2."""
    for _ in range(10):
        first = start()
        try:
            yield first, start(host="127.0.0.2", port=first.port)
        except OSError:
            continue  # somebody has this port on the other address
        return
    pytest.fail("no port is free on both addresses")


_ONLY_THE_FIRST = Policy(allowed_networks=(ip_network("127.0.0.1/32"),))


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_judged(start: Start) -> None:
    """DNS rebinding: the name is asked for once, and what a second answer would say is never dialled."""
    with _two_receivers(start) as (judged, hidden):
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        assert _send(judged, host=_NAME, policy=_ONLY_THE_FIRST, names=names).status_code == 200
        assert names.asked == [_NAME]
        assert (judged.connections, hidden.connections) == (1, 0)
        answer = _send(judged, host=_NAME, policy=_ONLY_THE_FIRST, names=names)
        assert answer.error == f"no webhook may be sent to {_NAME}: it is a loopback address"
        assert (judged.connections, hidden.connections) == (1, 0)


def test_of_several_addresses_only_permitted_ones_are_connected_to(start: Start) -> None:
    """A closed address first in the list is passed over, not tried."""
    with _two_receivers(start) as (judged, hidden):
        names = Names(["127.0.0.2", "::1", "10.0.0.1", "127.0.0.1"])
        assert _send(judged, host=_NAME, policy=_ONLY_THE_FIRST, names=names).status_code == 200
        assert (judged.connections, hidden.connections) == (1, 0)


def test_an_address_that_does_not_answer_is_followed_by_the_next(start: Start) -> None:
    """The first two refuse connections; the third gets the message, once."""
    receiver = start()
    assert _send(receiver, host=_NAME, names=Names(["127.0.0.3", "127.0.0.4", "127.0.0.1"])).status_code == 200
    assert receiver.connections == 1


def test_a_name_with_very_many_addresses_is_not_tried_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight doors at most are knocked at."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
        made = _watch_sockets(monkeypatch)
        answer = _send(port, host=_NAME, names=Names([f"127.0.1.{last}" for last in range(1, 101)]))
    assert answer.error == "the connection failed: Connection refused"
    assert len(made) == 8


def test_http_goes_to_allowed_addresses_only() -> None:
    """Over the public internet everybody on the way could read the message."""
    answer = _send(80, host=_NAME, names=Names(["93.184.216.34"]))
    assert answer.error == f"no webhook may be sent to {_NAME}: it is a public address, to which only https may go"


@pytest.mark.parametrize(
    "url",
    [
        "http://0x7f.1/",
        "http://2130706433/",
        "http://user:pw@receiver.test/",
        "gopher://receiver.test/",
        "https://a/#b",
    ],
)
def test_malformed_urls_are_an_answer_not_a_crash(url: str) -> None:
    """A stored URL that is no longer accepted leaves its reason in the log."""
    names = Names(["127.0.0.1"])
    answer = deliver(url, {}, b"{}", policy=_LOOPBACK, resolver=names)
    assert answer.status_code is None
    assert "URL must" in str(answer.error)
    assert names.asked == []


def test_a_name_that_nobody_knows_is_told_so() -> None:
    """Asked of the system's own resolver; `.invalid` exists nowhere (RFC 6761)."""
    answer = deliver("https://receiver.invalid/", {}, b"{}", policy=Policy())
    assert (answer.status_code, answer.error) == (None, "the name receiver.invalid cannot be resolved")


def test_the_systems_resolver_is_asked_by_default(start: Start) -> None:
    """`localhost` is known everywhere, and closed by default."""
    receiver = start()
    url = f"http://localhost:{receiver.port}/"
    assert deliver(url, {}, b"{}", policy=_LOOPBACK).status_code == 200
    answer = deliver(url, {}, b"{}", policy=Policy())
    assert answer.error == "no webhook may be sent to localhost: it is a loopback address"
    assert receiver.connections == 1


@contextmanager
def _hanging() -> Iterator[Callable[[], None]]:
    """Something that hangs as long as the test goes on; the test fails if it waited for the end."""
    release, outlasted = threading.Event(), list[bool]()

    def _hang() -> None:
        outlasted.append(not release.wait(_DRIPS * _PAUSE_S))

    yield _hang
    assert outlasted == []
    release.set()


def test_a_name_server_that_hangs_is_cut_off() -> None:
    """The system's resolver has no timeout of its own; the deadline holds for it too."""
    with _hanging() as hang:

        def _hangs(host: str) -> Sequence[str]:
            hang()
            return ["127.0.0.1"]

        answer = _send(9, host=_NAME, names=_hangs, seconds=_SHORT_S)
    assert (answer.status_code, answer.error) == (None, "no answer in time")


def test_a_refused_connection_is_told_so() -> None:
    """The port is bound, without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer = _send(taken.getsockname()[1])
    assert (answer.status_code, answer.error) == (None, "the connection failed: Connection refused")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(start: Start, status: int) -> None:
    """A redirect is the answer, and a failure: neither closed addresses nor others are followed."""
    elsewhere = start()
    location = f"http://127.0.0.1:{elsewhere.port}/"
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    answer = _send(start(_says(head.encode())))
    assert (answer.status_code, answer.error) == (status, None)
    assert attempt_outcome(answer.status_code) == "failed"
    assert elsewhere.connections == 0


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_comes_back_with_the_status(start: Start, status: int) -> None:
    """Seconds or a date come back; nonsense is as if it were not there."""

    def _asks(value: str) -> WebhookResponse:
        head = f"HTTP/1.1 {status} Busy\r\nretry-AFTER: {value}\r\nContent-Length: 0\r\n\r\n"
        return _send(start(_says(head.encode("latin-1"))))

    assert _asks("120").retry_after == timedelta(minutes=2)
    asked = _asks(format_datetime(datetime.now(UTC) + timedelta(hours=3), usegmt=True))
    assert asked.status_code == status
    assert asked.retry_after is not None
    assert timedelta(hours=2) < asked.retry_after <= timedelta(hours=3)
    assert _asks("später").retry_after is None


def test_proxies_of_the_environment_are_ignored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name again, and connect to what it likes."""
    receiver, proxy = start(), start()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert _send(receiver, host=_NAME).status_code == 200
    assert (receiver.connections, proxy.connections) == (1, 0)


class _Dripping:
    """Sends piece after piece, each well within any timeout for a single read, and counts how far it came."""

    def __init__(self, first: bytes, piece: bytes, last: bytes) -> None:
        self._first, self._piece, self._last = first, piece, last
        self.sent = 0

    def __call__(self, sock: socket.socket) -> None:
        sock.sendall(self._first)
        never = threading.Event()
        for _ in range(_DRIPS):
            never.wait(_PAUSE_S)
            sock.sendall(self._piece)
            self.sent += 1
        sock.sendall(self._last)


@pytest.mark.parametrize(
    ("first", "piece", "last"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"y", b"\r\nContent-Length: 0\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", _OK),
    ],
    ids=["a header", "interim answers"],
)
def test_a_head_that_drips_is_cut_off_at_the_deadline(start: Start, first: bytes, piece: bytes, last: bytes) -> None:
    """Each byte comes in time, the whole does not: that is no answer."""
    answer = _send(start(_Dripping(first, piece, last)), seconds=_SHORT_S)
    assert (answer.status_code, answer.error) == (None, "no answer in time")


def test_a_body_that_drips_costs_the_sender_its_deadline_and_no_more(start: Start) -> None:
    """The status has come, so the message is delivered; sending it again would double it."""
    script = _Dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", b"y", b"")
    receiver = start(script)
    answer = _send(receiver, seconds=_SHORT_S)
    assert (answer.status_code, answer.error) == (200, None)
    receiver.server_close()  # waits for its connections
    assert script.sent < _DRIPS


def test_a_body_without_end_is_read_in_part(start: Start) -> None:
    """64 KiB are enough to be polite; beyond that the connection is closed and the status stands."""
    piece, most = b"y" * 65536, 4096
    sent = 0

    def _floods(sock: socket.socket) -> None:
        nonlocal sent
        sock.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 99999999999\r\n\r\n")
        for _ in range(most):
            sock.sendall(piece)
            sent += 1

    receiver = start(_floods)
    answer = _send(receiver)
    assert (answer.status_code, answer.error) == (202, None)
    receiver.server_close()
    assert sent < most  # 256 MiB; what fits into the socket's buffers is less


def test_a_body_that_breaks_off_does_not_undo_the_status(start: Start) -> None:
    """Closed early, or with broken chunks: it is not read."""
    for body in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"):
        answer = _send(start(_says(b"HTTP/1.1 200 OK\r\n" + body)))
        assert (answer.status_code, answer.error) == (200, None)


@pytest.mark.parametrize(
    "words",
    [
        b"-ERR unknown command 'hunter2'\r\n",
        b"SSH-2.0-hunter2\r\n",
        b"",
        b"x: " * 100_000,
        b"HTTP/1.1 2000 hunter2\r\n\r\n",
    ],
    ids=["redis", "ssh", "silence", "a head without end", "no status"],
)
def test_what_is_no_http_is_told_without_quoting_it(start: Start, words: bytes) -> None:
    """A log of deliveries must not be a way to read what other servers say."""
    answer = _send(start(_says(words)))
    assert (answer.status_code, answer.error) == (None, "the answer is not HTTP")


@pytest.mark.parametrize(("scheme", "length"), [("http", 2), ("https", 2), ("http", 32 << 20)])
def test_a_receiver_that_neither_reads_nor_writes_is_cut_off(start: Start, scheme: str, length: int) -> None:
    """In clear while the answer is awaited, over TLS while its hello is, and while a long message is written."""
    with _hanging() as hang:
        receiver = start(lambda sock: hang(), reads=False)
        answer = _send(receiver, scheme=scheme, seconds=_SHORT_S, body=b"y" * length)
    assert (answer.status_code, answer.error) == (None, "no answer in time")


def test_a_reset_connection_is_told_so(start: Start) -> None:
    """The receiver dies while it has the message: it may have arrived or not, so it is sent again."""

    def _resets(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        os.close(sock.detach())

    answer = _send(start(_resets))
    assert (answer.status_code, answer.error) == (None, "the connection failed: Connection reset by peer")
