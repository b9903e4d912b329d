"""The client for code that awaits: predictions, and jobs that are followed or waited for.

Everything else is asked of `fedlas.client.Client`, in a thread where the event loop must go on
(`asyncio.to_thread(client.models.upload, path)`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar, Unpack

import anyio
import httpx

from fedlas.client import problems
from fedlas.client.configuration import load_configuration
from fedlas.client.errors import ClientError, ServerMismatch
from fedlas.client.events import EVENTS_POLL_S, NO_STREAM, EventStream, LongPoll, failure_of, pause_s
from fedlas.client.inputs import parts_of, predict_path
from fedlas.client.jobs import OnEvent
from fedlas.client.options import AnswerOptions, HasId, check_options, path_part
from fedlas.client.predictions import Predictions
from fedlas.client.transport import CONNECT_S, OnWarning, Requests, broken
from fedlas.contract.base import Page
from fedlas.contract.events import JobEvent
from fedlas.contract.records import FINAL, JobRecord

T = TypeVar("T")


class AsyncClient:
    """A FedLAS server, for code that awaits: calibrated predictions, and the events and the end of jobs.

    >>> from fedlas.client import AsyncClient
    >>> client = AsyncClient("http://127.0.0.1:8000")
    >>> client.url
    'http://127.0.0.1:8000'

    Args:
        url: of the server; else `FEDLAS_URL`, the profile's, or `http://127.0.0.1:8000`.
        key: else `FEDLAS_API_KEY`, or the profile's.
        profile: a section of `~/.config/fedlas/config.toml`.
        timeout: seconds for each try of a request.
        max_retries: how often a request is sent again, as by `Client`.
        http: an httpx client to send with, for proxies and certificates; it is closed with this one.
        on_warning: called with the sentence that says what keeps a job waiting; else that is logged (`fedlas.client`).

    Raises:
        ConfigurationError: the URL, the key or the profile cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        profile: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 3,
        http: httpx.AsyncClient | None = None,
        on_warning: OnWarning | None = None,
    ) -> None:
        configuration = load_configuration(url, key, profile=profile)
        self.url = configuration.url
        self._requests = Requests(
            configuration, timeout=timeout, max_retries=max_retries, given=http, on_warning=on_warning
        )
        self._http = http or httpx.AsyncClient(**self._requests.settings())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def predict(
        self, model: str | HasId, inputs: Any, *, deadline: float | None = None, **options: Unpack[AnswerOptions]
    ) -> Predictions:
        """Calibrated predictions for some rows; arguments and errors are those of `Client.predict`."""
        check_options(self.predict, AnswerOptions, options)
        answers: list[Predictions] = []
        for part in parts_of(inputs, deadline):
            with part.named():
                response = await self._request("POST", predict_path(model), **part.request(options))
                async with self._readable(response):
                    answers.append(problems.made(response, Predictions.of))
        return Predictions.joined(answers)

    async def wait(
        self,
        job: str | HasId,
        *,
        on_event: OnEvent | None = None,
        wait_timeout: float | None = None,
        check: bool = True,
    ) -> JobRecord:
        """The record of a job when it has ended; arguments and errors are those of `client.jobs.wait`."""
        path = _path(job)
        poll = LongPoll(wait_timeout)
        if on_event is not None:
            async for event in self._events(path, after=0, deadline=poll.deadline):
                on_event(event)
        while not poll.is_final(record := await self._look(path, **poll.options())):
            await anyio.sleep(pause_s(poll.began, poll.deadline))
        if check and (error := failure_of(record)) is not None:
            raise error
        return record

    def events(self, job: str | HasId, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """Events of a job after event `after`, oldest first, until its end; lost connections do not end it."""
        return self._events(_path(job), after=after, deadline=None)

    async def _events(self, job_path: str, *, after: int, deadline: float | None) -> AsyncIterator[JobEvent]:
        stream = EventStream(job_path, after=after, deadline=deadline)
        while stream.comes_through:
            try:
                async with self._stream(**stream.connection()) as response:
                    if response.status_code == 204:
                        return  # it has ended, and all is known
                    if "text/event-stream" not in response.headers.get("content-type", ""):
                        break
                    async for text in response.aiter_text():
                        async with self._readable(response):
                            events = stream.feed(response, text)
                        for event in events:
                            yield event
                        if text.startswith(":"):  # a comment: the stream has begun, or nothing has happened for a while
                            await self._look(job_path, timeout=stream.silence_s())
                        if stream.must_renew():
                            break
            except httpx.TransportError:
                stream.silence_s()
            except NO_STREAM:
                break
            await anyio.sleep(stream.ended())
        async for event in self._polled(job_path, stream, deadline):
            yield event

    async def _polled(self, job_path: str, stream: EventStream, deadline: float | None) -> AsyncIterator[JobEvent]:
        while True:
            stream.silence_s()
            began = time.monotonic()
            job = await self._look(job_path, params={"wait": EVENTS_POLL_S})  # before its events
            events: list[JobEvent] = []
            more = True
            while more:
                page = await self._read(Page[JobEvent], stream.path, params=stream.page(events))
                events += page.data
                more = stream.needs_more(page)
            for event in stream.new(events[::-1]):
                yield event
            if job.status in FINAL:
                return
            await anyio.sleep(pause_s(began, deadline))

    async def _look(self, job_path: str, **given: Any) -> JobRecord:
        record = await self._read(JobRecord, job_path, **given)
        self._requests.warn_of(record.waiting_for, record.id)
        return record

    async def _read(self, kind: type[T], path: str, **given: Any) -> T:
        response = await self._request("GET", path, **given)
        async with self._readable(response):
            return problems.read(response, kind)

    @asynccontextmanager
    async def _stream(self, path: str, **given: Any) -> AsyncIterator[httpx.Response]:
        response = await self._request("GET", path, stream=True, **given)
        try:
            yield response
        except httpx.DecodingError as error:
            raise broken(response.request, error) from None
        finally:
            await response.aclose()

    async def _request(self, method: str, path: str, *, stream: bool = False, **given: Any) -> httpx.Response:
        call = self._requests.call(method, path, **given)
        while True:
            request = self._requests.build(self._http, call)
            try:
                response = await self._send(request, stream=stream)
                if stream and not response.is_success:
                    await response.aread()
            except httpx.TransportError as error:
                delay: float | None = self._requests.delay_after_error(error, request, call)
            else:
                async with self._readable(response):
                    delay = self._requests.delay_after(response, call)
            if delay is None:
                return response
            await anyio.sleep(delay)

    async def _send(self, request: httpx.Request, *, stream: bool) -> httpx.Response:
        try:
            response = await self._http.send(request, stream=stream)
        except (httpx.DecodingError, httpx.TooManyRedirects) as error:
            raise broken(request, error) from None
        self._requests.met = True
        return response

    @asynccontextmanager
    async def _readable(self, response: httpx.Response) -> AsyncIterator[None]:
        """Make a ServerMismatch, for which the server is asked its version, of an Unreadable answer in the block."""
        try:
            yield
        except problems.Unreadable as error:
            raise await self._mismatch(str(error), response) from None

    async def _mismatch(self, observation: str, response: httpx.Response) -> ServerMismatch:
        try:
            request = self._requests.build(self._http, self._requests.call("GET", "/openapi.json", timeout=CONNECT_S))
            version = problems.server_version(await self._send(request, stream=False))
        except (httpx.HTTPError, ClientError):
            version = None
        return problems.mismatch(observation, version, response)


def _path(job: str | HasId) -> str:
    return f"/v1/jobs/{path_part(job)}"
