"""Deliveries of webhook messages by Standard Webhooks: how each is signed, when it is sent, and one attempt at a time.

Each attempt is logged, and the message is settled or postponed. No child is needed: no upload is opened.

An attempt reaches permitted addresses only. No redirect is followed, no proxy of the environment is used, certificates
are verified, and an answer's body is read only so that the receiver can finish writing a short one: nothing of it is
kept or shown, for a webhook must not be a way to read what other servers say. A name is resolved once. Each address is
judged, and the connection is made to that very address: a name server that answers differently the next time (DNS
rebinding) is not asked a next time.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http import HTTPStatus
from ipaddress import ip_address
from random import Random
from typing import Literal

import httpcore
from standardwebhooks import Webhook

from fedlas import __version__
from fedlas.contract.records import RecordError
from fedlas.contract.webhooks import Address, Endpoint, parse_secret, parse_url
from service.registry import tables
from service.registry.registry import UnitOfWork
from service.registry.webhooks import Policy
from worker.outside.kinds.base import WorkKind

#: Outcomes of an attempt for its message; `disabled`: the receiver wants none ever again.
AttemptOutcome = Literal["delivered", "disabled", "failed"]

#: Before each attempt, since the one before: the specification's example, 75 h 35 min in all.
SCHEDULE = tuple(
    timedelta(minutes=minutes) for minutes in (0, 5 / 60, 5, 30, *(60 * hours for hours in (2, 5, 10, 14, 20, 24)))
)
#: A receiver may ask for no longer a pause than the schedule makes itself.
MAX_PAUSE = SCHEDULE[-1]
#: Messages that failed together come back spread over a fifth of their pause.
_JITTER = 0.2
_MAX_DIGITS = 9
#: From a name to its addresses, in the order of preference; raises OSError.
Resolver = Callable[[str], Sequence[str]]
#: A reason not to connect to an address, as the end of "it is …"; None where there is none.
Objection = Callable[[Address], str | None]
#: A name with a thousand addresses is no reason to knock at a thousand doors.
_MAX_ADDRESSES = 8
_PIECE_BYTES = 16 * 1024
#: For all of an attempt, name resolution included; the specification recommends 15 to 30 s.
ATTEMPT_SECONDS = 20.0
_MAX_BODY_BYTES = 64 * 1024


def attempt_outcome(status_code: int | None) -> AttemptOutcome:
    """Judge an answer by its status; None stands for no answer. A redirect is a failure: the URL is to be corrected."""
    if status_code is not None and 200 <= status_code < 300:
        return "delivered"
    return "disabled" if status_code == HTTPStatus.GONE else "failed"


def delay_before(attempt: int, *, random: Random, retry_after: timedelta | None = None) -> timedelta | None:
    """Return how long to wait before this attempt; None: give up.

    Jitter only lengthens a pause, so that none is shorter than the schedule's or than what the receiver asked for.

    Args:
        attempt: 1 for the first, which waits for nothing.
        random: Where the jitter comes from.
        retry_after: What the answer to the attempt before asked for; at most `MAX_PAUSE` counts.
    """
    if attempt > len(SCHEDULE):
        return None
    return max(SCHEDULE[attempt - 1], min(retry_after or timedelta(), MAX_PAUSE)) * random.uniform(1, 1 + _JITTER)


def parse_retry_after(text: str, *, now: datetime) -> timedelta | None:
    """Read a `Retry-After` header, seconds or a date; None if it is neither. At most `MAX_PAUSE`, at least zero."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        pause = timedelta(seconds=int(text)) if len(text) <= _MAX_DIGITS else MAX_PAUSE
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        pause = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(pause, timedelta()), MAX_PAUSE)


def signed_headers(message_id: str, timestamp: datetime, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of one attempt: `v1` is HMAC-SHA256 of `id.timestamp.body`.

    Args:
        message_id: The same on every attempt, so that a receiver can tell a repetition; of letters, digits and `_`.
        timestamp: Of this attempt, with a time zone; receivers usually refuse one that is 5 minutes off.
        body: The very bytes that are sent.
        secret: `whsec_…`.

    Raises:
        ValueError: the secret is malformed.
    """
    moment = timestamp.astimezone(UTC)  # the library takes any clock's time for UTC
    return {
        "content-type": "application/json",
        "user-agent": f"fedlas/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(parse_secret(secret)).sign(message_id, moment, body.decode()),
    }


class Refused(Exception):
    """No address of the host may be connected to."""


class Unresolved(Exception):
    """The host's name leads to no address."""


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, more than zero; raises TimeoutError when none are left."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        return seconds


def resolve(host: str) -> Sequence[str]:
    """Ask the system for the addresses of a name; raises OSError."""
    return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class GuardedBackend(httpcore.NetworkBackend):
    """Connects httpcore to permitted addresses; timeouts that httpcore passes are ignored, the deadline governs."""

    def __init__(self, *, objection: Objection, resolver: Resolver, deadline: Deadline) -> None:
        self._objection = objection
        self._resolver = resolver
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[object] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first permitted address that accepts; raises Refused, Unresolved or an error of httpcore."""
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            sock = self._connect(self._permitted(host), port)
            # The head and the body are two small pieces: the second must not wait for the first's acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Stream(sock, self._deadline)

    def _connect(self, addresses: Sequence[Address], port: int) -> socket.socket:
        """Try one after the other; each, those after it and the request get equal shares of the time that is left."""
        *others, last = addresses
        for waiting, address in zip(range(len(others) + 2, 2, -1), others, strict=True):
            with suppress(OSError):
                return socket.create_connection((str(address), port), self._deadline.left() / waiting)
        return socket.create_connection((str(last), port), self._deadline.left() / 2)

    def _permitted(self, host: str) -> list[Address]:
        objections = {address: self._objection(address) for address in self._addresses(host)}
        permitted = [address for address, objection in objections.items() if objection is None]
        if not permitted:
            # The kind, not the address: a reader of the message need not know the names of this network.
            kinds = " or ".join(sorted({str(objection) for objection in objections.values()}))
            raise Refused(f"no webhook may be sent to {host}: it is {kinds}")
        return permitted[:_MAX_ADDRESSES]

    def _addresses(self, host: str) -> list[Address]:
        """The host itself if it is an address, else what the name resolves to within the deadline.

        The system's resolver knows no timeout, so a thread asks it; one that hangs ends when the resolver gives up.
        """
        try:
            return [ip_address(host)]
        except ValueError:
            answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()
        threading.Thread(target=_ask, args=(self._resolver, host, answers), daemon=True).start()
        try:
            answer = answers.get(timeout=self._deadline.left())
        except queue.Empty:
            raise TimeoutError("the name was not resolved in time") from None
        if isinstance(answer, Exception) or not answer:
            raise Unresolved(f"the name {host} cannot be resolved")
        return [ip_address(text) for text in answer]


class _Stream(httpcore.NetworkStream):
    """A connected socket whose every step ends by the deadline, however slowly the other side drips."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            self._sock.settimeout(self._deadline.left())
            return self._sock.recv(min(max_bytes, _PIECE_BYTES))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            while rest:
                self._sock.settimeout(self._deadline.left())
                rest = rest[self._sock.send(rest) :]

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                self._sock.settimeout(self._deadline.left())
                return _Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname), self._deadline)
            except BaseException:
                self.close()
                raise

    def get_extra_info(self, info: str) -> None:
        """Nothing: httpcore asks for the protocol that TLS agreed on, and only HTTP/1.1 is offered."""


def _ask(resolver: Resolver, host: str, answers: queue.SimpleQueue[Sequence[str] | Exception]) -> None:
    try:
        answers.put(resolver(host))
    except Exception as error:
        answers.put(error)


@contextmanager
def _as_httpcore(timeout: type[Exception], other: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error)) from error
    except OSError as error:
        raise other(_reason(error)) from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return f"TLS failed: {error.reason}" if isinstance(error, ssl.SSLError) else error.strerror or str(error)


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The outcome of an attempt: a status, or else the reason why there is none."""

    status_code: int | None
    retry_after: timedelta | None
    error: str | None
    seconds: float


def deliver(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    policy: Policy,
    seconds: float = ATTEMPT_SECONDS,
    resolver: Resolver = resolve,
    tls: ssl.SSLContext | None = None,
) -> WebhookResponse:
    """POST `body` to `url` once; whatever the other side does, the answer tells it and nothing is raised.

    The status line decides: what goes wrong afterwards, in the unread body, changes nothing.

    Args:
        url: As `parse_url` takes it.
        headers: Those of `signed_headers`; `host`, `content-length` and `connection` are added.
        body: The bytes that were signed.
        policy: Which addresses may be connected to.
        seconds: When everything is over.
        resolver: From a name to its addresses.
        tls: Default: the authorities that the system, `SSL_CERT_FILE` or certifi names.
    """
    begin = time.monotonic()
    status_code, retry_after, error = None, None, None
    try:
        endpoint = parse_url(url)
        objection = partial(policy.objection, secure=endpoint.secure)
        backend = GuardedBackend(objection=objection, resolver=resolver, deadline=Deadline(seconds))
        status_code, retry_after = _post(endpoint, headers, body, backend, tls or _trusted())
    except (ValueError, Refused, Unresolved) as problem:
        error = str(problem)
    except httpcore.TimeoutException:
        error = "no answer in time"
    except httpcore.NetworkError as problem:
        error = f"the connection failed: {problem}"
    except httpcore.RemoteProtocolError:
        # The error's words may quote what the other side sent.
        error = "the answer is not HTTP"
    return WebhookResponse(status_code, retry_after, error, time.monotonic() - begin)


def _post(
    endpoint: Endpoint, headers: Mapping[str, str], body: bytes, backend: GuardedBackend, tls: ssl.SSLContext
) -> tuple[int, timedelta | None]:
    scheme, host = b"https" if endpoint.secure else b"http", endpoint.host.encode("ascii")
    origin = httpcore.Origin(scheme, host, endpoint.port)
    url = httpcore.URL(scheme=scheme, host=host, port=endpoint.port, target=endpoint.target.encode("ascii"))
    sent = [("host", endpoint.authority), *headers.items(), ("connection", "close")]
    with (
        httpcore.HTTPConnection(origin, ssl_context=tls, network_backend=backend) as connection,
        connection.stream("POST", url, headers=sent, content=body) as response,
    ):
        _drain(response)
        asked = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
        return response.status, parse_retry_after(asked.decode("latin-1"), now=datetime.now(UTC))


def _drain(response: httpcore.Response) -> None:
    """Read a bounded piece of the body: a receiver that is cut off while it writes may take its work back."""
    left = _MAX_BODY_BYTES
    with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.RemoteProtocolError):
        for piece in response.iter_stream():
            left -= len(piece)
            if left <= 0:
                return


@cache
def _trusted() -> ssl.SSLContext:
    """Made once: reading some hundred certificates takes longer than most deliveries."""
    return httpcore.default_ssl_context()


class Deliver(WorkKind):
    def begin(self) -> None:
        """Send it now; the response settles the work, or says when to try again."""
        with self.registry.read() as unit:
            row = unit.deliveries.get(self.record_id)
            webhook = unit.jobs.get(row.job_id).webhook
            moment = unit.now()
        assert webhook is not None
        body = row.body.encode()
        headers = signed_headers(row.id, moment, body, webhook[1])
        answer = deliver(row.url, headers, body, policy=self.settings.webhook_policy)
        with self.registry.write() as unit:
            unit.work.verify(self.claim)  # its job may have been deleted meanwhile, and with it the message
            self._note(unit, unit.deliveries.get(self.record_id), answer)

    def _note(self, unit: UnitOfWork, row: tables.Delivery, answer: WebhookResponse) -> None:
        outcome = attempt_outcome(answer.status_code)
        pause = delay_before(self.claim.attempts + 1, random=Random(), retry_after=answer.retry_after)
        attempt = {
            "at": unit.now().isoformat(),
            "status_code": answer.status_code,
            "error": answer.error,
            "seconds": round(answer.seconds, 3),
        }
        if outcome == "failed" and pause is not None:
            unit.work.postpone(self.claim, not_before=unit.now() + pause)
            unit.deliveries.record_attempt(row, attempt, "pending")
            return
        unit.work.finish(self.claim)
        unit.deliveries.record_attempt(row, attempt, outcome)
        if outcome == "disabled":
            unit.deliveries.disable(row.url)

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The message is given up, until a client asks for it again."""
        row = unit.deliveries.get(self.record_id)
        row.status, row.error = "failed", error.model_dump()
