# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""The transport: every request goes through here, with retries, keys, ids and errors; it knows no resource."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

import fedlas
from fedlas.client import problems
from fedlas.client.configuration import Configuration
from fedlas.client.errors import ClientError, ConfigurationProblem
from fedlas.client.raw_response import KEPT
from fedlas.client.retrying import backoff, delay_before_retry
from fedlas.client.waiting import sleep

T = TypeVar("T")
Params = Mapping[str, Any]

_LOG = logging.getLogger("fedlas.client")
#: Of a server that has never answered: probably the URL is wrong.
_MOST_FIRST_RETRIES = 2
#: Of a server that says nothing, each as long as the timeout.
_MOST_SILENT_RETRIES = 2
_CONNECT_S = 10.0


class Transport:
    """Requests to one server."""

    def __init__(
        self, configuration: Configuration, *, timeout: float, max_retries: int, http: httpx.Client | None
    ) -> None:
        self.configuration = configuration
        self.max_retries = max_retries
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S))
        self._met = False
        headers = {"User-Agent": f"fedlas-python/{fedlas.__version__}", "Accept": "application/json"}
        if configuration.key:
            headers["Authorization"] = f"Bearer {configuration.key}"
        self._http = http or httpx.Client(verify=_certificates(configuration.url), trust_env=not configuration.is_local)
        self._http.headers.update(headers)  # here, since merging them costs every request

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
            raise problems.mismatch(str(error), self._server_version(), response) from None

    def made(self, response: httpx.Response, make: Callable[[bytes], T]) -> T:
        """What is made of the answer's bytes, where that raises ValueError for others; raises ServerMismatch."""
        try:
            return make(response.content)
        except ValueError as error:
            found = f"{problems.describe(response)}, which cannot be read ({error})"
            raise problems.mismatch(found, self._server_version(), response) from None

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
    ) -> httpx.Response:
        """The answer, which is a good one; raises an error of the family.

        Args:
            creates: a record is made, and with a key of its own only one, however often the request is sent.
            timeout: of each try, in seconds, where it is not the client's.
        """
        sent = dict(headers or ())
        if creates:
            sent["Idempotency-Key"] = secrets.token_hex(16)
        request_id = sent["X-Request-Id"] = secrets.token_hex(16)
        retries = 0
        while True:
            request = self._build(
                method, path, params=params, json=json, content=content, headers=sent, timeout=timeout
            )
            try:
                response = self._send(request)
            except httpx.TransportError as error:
                if retries >= self.most_retries(error):
                    raise problems.unreachable(error, self.configuration.url, request_id) from None
                delay, reason = backoff(retries), str(error) or type(error).__name__
            else:
                if response.is_success:
                    return self._kept(response)
                if retries and method == "DELETE" and response.status_code == 404:
                    return self._kept(response)  # the try whose answer was lost has deleted it
                code = problems.code_of(response)
                wait = delay_before_retry(response, code, retries, self.max_retries)
                if wait is None:
                    raise self.refusal(response)
                delay, reason = wait, f"{response.status_code} {code}"
            retries += 1
            _LOG.info("%s %s: %s; try %d follows in %.1f s", method, path, reason, retries + 1, delay)
            sleep(delay)

    def attempt(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer to a single try, whatever it is; raises httpx.TransportError."""
        return self._send(self._build(method, path, **given))

    @contextmanager
    def stream(
        self, path: str, *, params: Params | None = None, headers: Mapping[str, str] | None = None, timeout: float
    ) -> Iterator[httpx.Response]:
        """A good answer whose body is still to come, after a single try; raises httpx.TransportError, too."""
        request = self._build("GET", path, params=params, headers=headers, timeout=timeout)
        response = self._send(request, stream=True)
        try:
            if not response.is_success:
                response.read()
                raise self.refusal(response)
            yield self._kept(response)
        finally:
            response.close()

    def refusal(self, response: httpx.Response) -> ClientError:
        """The error that an answer is."""
        try:
            return problems.refusal(response)
        except problems.Unreadable as error:
            return problems.mismatch(str(error), self._server_version(), response)

    def most_retries(self, error: httpx.TransportError) -> int:
        """How often to come again after this error."""
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError):
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
        json: Any = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> httpx.Request:
        limit = self._timeout if timeout is None else httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S))
        try:
            return self._http.build_request(
                method,
                f"{self.configuration.url}{path}",
                params=params,
                json=json,
                content=content,
                headers=headers,
                timeout=limit,
            )
        except httpx.InvalidURL as error:
            raise ConfigurationProblem("bad_url", f"{self.configuration.url}{path}: {error}") from None

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        response = self._http.send(request, stream=stream)
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
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None


def _certificates(url: str) -> ssl.SSLContext | bool:
    """Those of httpx; none for plain HTTP, since reading them takes most of the start."""
    return True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
