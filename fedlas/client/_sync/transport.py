# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""The transport: every request goes through here, with retries, keys, ids and errors; it knows no resource."""

from __future__ import annotations

import logging
import os
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import httpx

import fedlas
from fedlas.client import problems
from fedlas.client.configuration import Configuration
from fedlas.client.errors import ClientError, ConfigurationProblem, InvalidInput, ServerMismatch
from fedlas.client.queries import body_of_order
from fedlas.client.raw_response import KEPT
from fedlas.client.retrying import Retries, backoff, delay_before_retry
from fedlas.client.waiting import OnWarning, sleep

T = TypeVar("T")
Params = Mapping[str, Any]

_LOG = logging.getLogger("fedlas.client")
#: Of a server that has never answered: probably the URL is wrong.
_MOST_FIRST_RETRIES = 2
#: Of a server that says nothing, each as long as the timeout.
_MOST_SILENT_RETRIES = 2
_CONNECT_S = 10.0


class Transport:
    """Requests to one server.

    Attributes:
        warn: is told what keeps a record from going on.
        obstacles: what it was told, by record.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float,
        max_retries: int,
        http: httpx.Client | None,
        on_warning: OnWarning | None,
    ) -> None:
        self.configuration = configuration
        self.max_retries = max_retries
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S))
        self._met = False
        self.warn, self.obstacles = on_warning or _LOG.warning, dict[str, str]()
        headers = {"User-Agent": f"fedlas-python/{fedlas.__version__}", "Accept": "application/json"}
        if configuration.key:
            headers["Authorization"] = f"Bearer {configuration.key}"
        self._given, self._headers = http, headers
        self._open()

    def _open(self) -> None:
        """Take connections of this process: those of another, from before a fork, are its own."""
        self._process = os.getpid()
        # Merging headers costs every request; into a client of somebody else's no key of ours goes for good.
        self._each_time = self._headers if self._given is not None else {}
        self._http = self._given or httpx.Client(
            verify=_certificates(self.configuration.url),
            trust_env=not self.configuration.is_local,
            headers=self._headers,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def read(self, kind: type[T], method: str, path: str, **given: Any) -> T:
        """The typed content of the answer; `given` as in `request`."""
        response = self.request(method, path, **given)
        return self.typed(response, kind)

    def typed(self, response: httpx.Response, kind: type[T]) -> T:
        """The typed content of an answer; raises ServerMismatch."""
        try:
            return problems.read(response, kind)
        except problems.Unreadable as error:
            raise self.mismatch(str(error), response) from None

    def made(self, response: httpx.Response, make: Callable[[bytes], T]) -> T:
        """What is made of the answer's bytes, where that raises ValueError for others; raises ServerMismatch."""
        try:
            return make(response.content)
        except ValueError as error:
            raise self.mismatch(f"{problems.describe(response)}, which cannot be read ({error})", response) from None

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        creates: bool = False,
        timeout: float | None = None,
        retries: Retries = Retries.WHERE_IT_HELPS,
    ) -> httpx.Response:
        """The answer, which is a good one; raises an error of the family.

        Args:
            creates: a record is made, and with a key of its own only one, however often the request is sent.
            timeout: of each try, in seconds, where it is not the client's.
        """
        sent = {"X-Request-Id": secrets.token_hex(16), **(headers or {})}
        if creates:
            sent["Idempotency-Key"] = secrets.token_hex(16)
        if json is not None:
            content, sent["Content-Type"] = body_of_order(json), "application/json"
        build = partial(self._build, method, path, params=params, content=content, headers=sent, timeout=timeout)
        return self._answered(build, retries)

    def attempt(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer to a single try, whatever it is; raises httpx.TransportError."""
        return self._send(self._build(method, path, **given))

    @contextmanager
    def stream(
        self, path: str, *, params: Params | None = None, headers: Mapping[str, str] | None = None, timeout: float
    ) -> Iterator[httpx.Response]:
        """A good answer whose body is still to come; reading that raises httpx.TransportError."""
        sent = {"X-Request-Id": secrets.token_hex(16), **(headers or {})}
        build = partial(self._build, "GET", path, params=params, headers=sent, timeout=timeout)
        response = self._answered(build, Retries.WHERE_IT_HELPS, stream=True)
        try:
            yield response
        except httpx.DecodingError as error:
            raise _broken(response.request, error) from None
        finally:
            response.close()

    def _answered(
        self, build: Callable[[], httpx.Request], allowed: Retries, *, stream: bool = False
    ) -> httpx.Response:
        """A good answer, after as many tries as it takes and as are allowed."""
        retries = 0
        while True:
            request = build()
            try:
                response = self._send(request, stream=stream)
                if stream and not response.is_success:
                    response.read()
            except httpx.TransportError as error:
                if retries >= self.most_retries(error, allowed):
                    request_id = request.headers.get("x-request-id")
                    raise problems.unreachable(error, self.configuration.url, request_id) from None
                delay, reason = backoff(retries), str(error) or type(error).__name__
            else:
                deleted_before = retries > 0 and request.method == "DELETE" and response.status_code == 404
                if response.is_success or deleted_before:
                    return self._kept(response)
                most = 0 if allowed is Retries.NONE else self.max_retries
                wait = delay_before_retry(response, problems.code_of(response), retries, most)
                if wait is None:
                    raise self.refusal(response)
                delay, reason = wait, f"status {response.status_code}"
            retries += 1
            where = f"{request.method} {request.url.path}"
            _LOG.info("%s: %s; try %d follows in %.1f s", where, reason, retries + 1, delay)
            sleep(delay)

    def refusal(self, response: httpx.Response) -> ClientError:
        """The error that an answer is."""
        try:
            return problems.refusal(response)
        except problems.Unreadable as error:
            return self.mismatch(str(error), response)

    def mismatch(self, found: str, response: httpx.Response) -> ServerMismatch:
        """The error of an answer that this client cannot read; the server is asked for its version."""
        return problems.mismatch(found, self._server_version(), response)

    def most_retries(self, error: httpx.TransportError, allowed: Retries = Retries.WHERE_IT_HELPS) -> int:
        """How often to come again after this error."""
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError):
            return 0
        if allowed is Retries.NONE or (allowed is Retries.NOT_FOR_SILENCE and isinstance(error, httpx.ReadTimeout)):
            return 0
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not self._met:
            return min(_MOST_FIRST_RETRIES, self.max_retries)
        if isinstance(error, httpx.ReadTimeout):
            return min(_MOST_SILENT_RETRIES, self.max_retries)
        return self.max_retries

    def _build(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> httpx.Request:
        if self._process != os.getpid():
            self._open()
        if self._http.is_closed:
            raise InvalidInput("client_closed", "this client has been closed; make another")
        limit = self._timeout if timeout is None else httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S))
        try:
            return self._http.build_request(
                method,
                f"{self.configuration.url}{path}",
                params=params,
                content=content,
                headers={**self._each_time, **(headers or {})},
                timeout=limit,
            )
        except httpx.InvalidURL as error:
            raise ConfigurationProblem("bad_url", f"{self.configuration.url}{path}: {error}") from None

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
        except (httpx.DecodingError, httpx.TooManyRedirects) as error:
            raise _broken(request, error) from None
        self._met = True
        return response

    def _kept(self, response: httpx.Response) -> httpx.Response:
        if (kept := KEPT.get()) is not None:
            kept.append(response)
        return response

    def _server_version(self) -> str | None:
        """What the server says it is; None where it is no such server."""
        try:
            response = self.attempt("GET", "/openapi.json", timeout=_CONNECT_S)
            info = response.json()["info"]
            return str(info["version"]) if "fedlas" in str(info["title"]).lower() else None
        except (httpx.HTTPError, ClientError, ValueError, KeyError, TypeError, RecursionError):
            return None


def _broken(request: httpx.Request, error: httpx.RequestError) -> ServerMismatch:
    return ServerMismatch(f"{request.method} {request.url.path} has an answer that is broken: {error}")


def _certificates(url: str) -> ssl.SSLContext | bool:
    """Those of httpx; none for plain HTTP, since reading them takes most of the start."""
    return True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
