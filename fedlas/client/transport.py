"""The transport: every request goes through here, with retries, keys, ids and errors; it knows no resource."""

from __future__ import annotations

import logging
import os
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import httpx

import fedlas
from fedlas.client import problems
from fedlas.client.configuration import Configuration
from fedlas.client.errors import ClientError, ConfigurationError, InvalidInput, ServerMismatch
from fedlas.client.options import HasId, json_body, path_part
from fedlas.client.problems import MAX_CALL_S, Retries, backoff
from fedlas.contract.base import Page

T = TypeVar("T")
Item = TypeVar("Item")
Params = Mapping[str, Any]
#: Told, in a sentence, what keeps a record from going on that is waited for.
OnWarning = Callable[[str], object]
_LOG = logging.getLogger("fedlas.client")
#: A server that has never answered: probably the URL is wrong.
_MAX_FIRST_RETRIES = 2
#: A server that says nothing, each try as long as the timeout.
_MAX_SILENT_RETRIES = 2
CONNECT_S = 10.0
_PER_PAGE = 100
#: Answers that a call under `with_raw_response` has received so far.
KEPT: ContextVar[list[httpx.Response] | None] = ContextVar("KEPT", default=None)


@dataclass(frozen=True)
class RawResponse(Generic[T]):
    """Return value of a call, and the last answer that it received.

    Attributes:
        value: what the call returns without this.
        http_response: the answer, with its `status_code`, `headers` and `content`.
    """

    value: T
    http_response: httpx.Response

    @property
    def status(self) -> int:
        return self.http_response.status_code

    @property
    def headers(self) -> httpx.Headers:
        return self.http_response.headers

    @property
    def request_id(self) -> str | None:
        return cast("str | None", self.headers.get("x-request-id"))


@dataclass
class Call:
    """One request over all its tries.

    Attributes:
        params: of the query.
        json: the body, which is written as JSON; raises InvalidInput for what JSON has no word for.
        content: the body as it goes out.
        headers: beside those of the client; an id under which the server's log has it is among them.
        creates: a record is made, and with a key of its own only one, however often the request is sent.
        timeout: seconds for each try.
        useful_s: seconds after which the answer is of no use, so that no try begins.
        retries: how often it may be sent again.
        tries: those that have failed.
        flights: those of them that found it in flight.
    """

    method: str
    path: str
    params: Params | None = None
    json: Any = None
    content: bytes | Iterator[bytes] | None = None
    headers: Mapping[str, str] | None = None
    creates: bool = False
    timeout: float = 60.0
    useful_s: float | None = None
    retries: Retries = Retries.WHERE_IT_HELPS
    tries: int = 0
    flights: int = 0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.sent = {"X-Request-Id": secrets.token_hex(16), **(self.headers or {})}
        if self.creates:
            self.sent["Idempotency-Key"] = secrets.token_hex(16)
        if self.json is not None:
            self.content, self.sent["Content-Type"] = json_body(self.json), "application/json"

    def failed(self, delay: float, most: float, *, in_flight: bool = False) -> bool:
        """Note a try that failed; whether the next may begin after the delay, where there are at most so many."""
        allowed = self.tries - self.flights < most
        self.tries += 1
        self.flights += in_flight
        limit_s = max(MAX_CALL_S, self.timeout) if self.useful_s is None else self.useful_s
        return allowed and time.monotonic() + delay <= self._began + limit_s


class Requests:
    """Requests to one server, prepared, and their answers, judged; `given` is the httpx client of the user, if any."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float,
        max_retries: int,
        given: httpx.Client | httpx.AsyncClient | None,
        on_warning: OnWarning | None,
    ) -> None:
        self.configuration = configuration
        self.max_retries = max_retries
        self._timeout = timeout
        self._warn, self._obstacles = on_warning or _LOG.warning, dict[str, str]()
        self._headers = {"User-Agent": f"fedlas-python/{fedlas.__version__}", "Accept": "application/json"}
        if configuration.key:
            self._headers["Authorization"] = f"Bearer {configuration.key}"
        # Merging headers costs every request; into a client of somebody else's no key of ours goes for good.
        self._each_time = self._headers if given is not None else {}
        self.met = False

    def settings(self) -> dict[str, Any]:
        """Arguments of the httpx client that belongs to this one."""
        # Reading certificates takes most of the start, and plain HTTP needs none.
        https = self.configuration.url.startswith("https:")
        return {
            "verify": True if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "trust_env": not self.configuration.is_local,
            "headers": self._headers,
        }

    def call(self, method: str, path: str, **given: Any) -> Call:
        """The call, with the fields of `Call` that are given."""
        return Call(method, path, **{"timeout": self._timeout, **given})

    def build(self, http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        """One try; raises InvalidInput for a client that has been closed."""
        if http.is_closed:
            raise InvalidInput("client_closed", "this client has been closed; make another")
        url = f"{self.configuration.url}{call.path}"
        try:
            return http.build_request(
                call.method,
                url,
                params=call.params,
                content=call.content,
                headers={**self._each_time, **call.sent},
                timeout=httpx.Timeout(call.timeout, connect=min(call.timeout, CONNECT_S)),
            )
        except httpx.InvalidURL as error:
            raise ConfigurationError("bad_url", f"{url}: {error}") from None

    def delay_after_error(self, error: httpx.TransportError, request: httpx.Request, call: Call) -> float:
        """Seconds until the next try; raises APIConnectionError where there is none."""
        delay = backoff(call.tries)
        if not call.failed(delay, self.max_retries_after(error, call.retries)):
            raise problems.unreachable(error, self.configuration.url, request.headers.get("x-request-id")) from None
        _log_retry(request, str(error) or type(error).__name__, call.tries, delay)
        return delay

    def delay_after(self, response: httpx.Response, call: Call) -> float | None:
        """Seconds until the next try; None for a good answer. Raises the refusal, or Unreadable."""
        deleted_before = call.tries > 0 and call.method == "DELETE" and response.status_code == 404
        if response.is_success or deleted_before:
            return None
        code = problems.code_of(response)
        most = problems.max_retries_of(response, code, 0 if call.retries is Retries.NONE else self.max_retries)
        delay = problems.delay_before_retry(response, call.tries)
        if not call.failed(delay, most, in_flight=code == problems.IN_FLIGHT):
            raise problems.refusal(response)
        _log_retry(response.request, f"status {response.status_code}", call.tries, delay)
        return delay

    def max_retries_after(self, error: httpx.TransportError, allowed: Retries = Retries.WHERE_IT_HELPS) -> int:
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError):
            return 0
        if allowed is Retries.NONE or (allowed is Retries.NOT_FOR_SILENCE and isinstance(error, httpx.ReadTimeout)):
            return 0
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not self.met:
            return min(_MAX_FIRST_RETRIES, self.max_retries)
        if isinstance(error, httpx.ReadTimeout):
            return min(_MAX_SILENT_RETRIES, self.max_retries)
        return self.max_retries

    def warn_of(self, obstacle: str | None, record_id: str) -> None:
        """Tell what keeps a record from going on, once for each reason: that it lasts longer is none."""
        if not (reason := re.sub(r"\d+ (s|min)", "", obstacle or "")):
            self._obstacles.pop(record_id, None)
        elif reason != self._obstacles.get(record_id):
            self._obstacles[record_id] = reason
            self._warn(f"{record_id}: {obstacle}")


class Transport(Requests):
    """Requests to one server, sent by a thread that waits."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float,
        max_retries: int,
        http: httpx.Client | None,
        on_warning: OnWarning | None,
    ) -> None:
        super().__init__(configuration, timeout=timeout, max_retries=max_retries, given=http, on_warning=on_warning)
        self._given = http
        self._open()

    def _open(self) -> None:
        """Take connections of this process: those of another, from before a fork, are its own."""
        self._process = os.getpid()
        self._http = self._given or httpx.Client(**self.settings())

    def close(self) -> None:
        self._http.close()

    def read(self, kind: type[T], method: str, path: str, **given: Any) -> T:
        """The typed content of the answer."""
        return self.typed(self.request(method, path, **given), kind)

    def typed(self, response: httpx.Response, kind: type[T]) -> T:
        with self.readable(response):
            return problems.read(response, kind)

    @contextmanager
    def readable(self, response: httpx.Response) -> Iterator[None]:
        """Make a ServerMismatch, for which the server is asked its version, of an Unreadable answer in the block."""
        try:
            yield
        except problems.Unreadable as error:
            raise self.mismatch(str(error), response) from None

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer, which is a good one; raises an error of the family."""
        return self._answered(self.call(method, path, **given))

    def attempt(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer to a single try, whatever it is; raises httpx.TransportError."""
        return self._send(self._build(self.call(method, path, **given)))

    @contextmanager
    def stream(self, path: str, **given: Any) -> Iterator[httpx.Response]:
        """A good answer whose body is still to come; reading that raises httpx.TransportError."""
        response = self._answered(self.call("GET", path, **given), stream=True)
        try:
            yield response
        except httpx.DecodingError as error:
            raise broken(response.request, error) from None
        finally:
            response.close()

    def _answered(self, call: Call, *, stream: bool = False) -> httpx.Response:
        """A good answer, after as many tries as it takes and as are allowed."""
        while True:
            request = self._build(call)
            try:
                response = self._send(request, stream=stream)
                if stream and not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                delay: float | None = self.delay_after_error(error, request, call)
            else:
                with self.readable(response):
                    delay = self.delay_after(response, call)
            if delay is None:
                if (kept := KEPT.get()) is not None:
                    kept.append(response)
                return response
            time.sleep(delay)

    def mismatch(self, observation: str, response: httpx.Response) -> ServerMismatch:
        """The error of an answer that this client cannot read; the server is asked for its version."""
        try:
            version = problems.server_version(self.attempt("GET", "/openapi.json", timeout=CONNECT_S))
        except (httpx.HTTPError, ClientError):
            version = None
        return problems.mismatch(observation, version, response)

    def _build(self, call: Call) -> httpx.Request:
        if self._process != os.getpid():
            self._open()
        return self.build(self._http, call)

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
        except (httpx.DecodingError, httpx.TooManyRedirects) as error:
            raise broken(request, error) from None
        self.met = True
        return response


class Route:
    """A path of the server, asked for by a transport."""

    _path: ClassVar[str]

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _at(self, record: str | HasId) -> str:
        return f"{self._path}/{path_part(record)}"


class Pages(Generic[Item]):
    """All records of a list, newest first; iterating asks for page after page.

    >>> from fedlas.client import Client
    >>> def names() -> list[str]:
    ...     with Client() as client:
    ...         return [model.name for model in client.models.list(limit=500)]
    """

    def __init__(
        self,
        transport: Transport,
        kind: type[Page[Item]],
        path: str,
        params: Params,
        *,
        limit: int | None,
        prepare: Callable[[Item], Any] = lambda item: item,
    ) -> None:
        self._transport, self._kind, self._path, self._params = transport, kind, path, params
        self._limit, self._prepare = limit, prepare

    def __iter__(self) -> Iterator[Item]:
        left = self._limit
        after: dict[str, str] = {}
        more = left is None or left > 0
        while more:
            params = {**self._params, **after, "limit": _PER_PAGE if left is None else min(left, 1000)}
            page = self._transport.read(self._kind, "GET", self._path, params=params)
            for item in page.data:
                self._prepare(item)
                yield item
            left = None if left is None else left - len(page.data)
            more = page.next is not None and (left is None or left > 0)
            after = {"after": page.next or ""}

    def all(self) -> list[Item]:
        return list(self)


def broken(request: httpx.Request, error: httpx.RequestError) -> ServerMismatch:
    """The error of an answer that cannot be decoded or leads in a circle."""
    return ServerMismatch(f"{request.method} {request.url.path} has an answer that is broken: {error}")


def _log_retry(request: httpx.Request, reason: str, tries: int, delay: float) -> None:
    _LOG.info("%s %s: %s; try %d follows in %.1f s", request.method, request.url.path, reason, tries + 1, delay)
