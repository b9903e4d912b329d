"""`fedlas api` as a process on a socket that the test keeps open, and plain HTTP for what clients hide."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from tests.helpers import ROOT, Json
from tests.helpers.backends import environment
from tests.helpers.plain_http import connected, one
from tests.helpers.processes import die_with_parent, until

T = TypeVar("T")
_RUN = """
import socket, sys
from service.processes.api import run
from service.registry.settings import ServiceSettings
settings = ServiceSettings(shutdown_seconds=float(sys.argv[2]))
sys.exit(run(settings, sockets=[socket.socket(fileno=int(sys.argv[1]))]))
"""


class LiveApi:
    """One API process; several may share a socket."""

    def __init__(
        self, place: Mapping[str, Any], listener: socket.socket, *, grace_seconds: float = 30, before: str = ""
    ) -> None:
        """`before` is run first, in the process itself."""
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe that nobody reads would hold it up once it is full
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + _RUN, str(listener.fileno()), str(grace_seconds)],
            cwd=ROOT,
            env={**clean, **environment(place)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            preexec_fn=die_with_parent(),
        )

    @property
    def log(self) -> str:
        """The log so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode()

    @property
    def pids(self) -> list[int]:
        """All processes that answer: one."""
        return [self.process.pid]

    def until_ready(self) -> LiveApi:
        """Wait until the process prints its address: an open connection may wait unaccepted in the queue."""
        until(lambda: "listening" in self.log or self.process.poll() is not None, what="the API listens")
        assert self.process.poll() is None, self.log
        return self

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self, *, seconds: float) -> None:
        """Fail where it has not ended by itself after so long; uvicorn lets the signal end the process at last."""
        assert self.process.wait(seconds) in (0, -signal.SIGTERM)

    def kill(self) -> None:
        """End it by force."""
        self.process.kill()
        self.process.wait()
        if not self._log.closed:
            print(self.log)  # pytest shows it beside a failure
            self._log.close()


@contextmanager
def live(place: Mapping[str, Any], *, number: int = 1, grace_seconds: float = 30) -> Iterator[list[LiveApi]]:
    """So many API processes on the same records, each on a socket of its own."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    apis = [LiveApi(place, listener, grace_seconds=grace_seconds) for listener in listeners]
    try:
        yield [api.until_ready() for api in apis]
    finally:
        for api, listener in zip(apis, listeners, strict=True):
            api.kill()
            listener.close()


class SlowUpload:
    """A dataset that arrives as slowly as the test wants."""

    def __init__(self, port: int, content: bytes, *, key: str | None = None) -> None:
        self._rest = content
        self._socket = connected(port)
        head = f"POST /v1/datasets?name=slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        head += f"Idempotency-Key: {key}\r\n" if key else ""
        self._socket.sendall(f"{head}\r\n".encode())

    def send(self, number: int) -> None:
        """Send so many more bytes."""
        self._socket.sendall(self._rest[:number])
        self._rest = self._rest[number:]

    def finish(self) -> tuple[int, Json]:
        """Send the rest; returns status and body of the answer."""
        with self._socket:
            self._socket.sendall(self._rest)
            answer = one(self._socket)
        return answer.status, answer.json

    def is_cut_off(self) -> bool:
        """True where the connection ended without an answer, or with one that promises nothing."""
        try:
            return self._socket.recv(10) in (b"", b"HTTP/1.1 5")
        except ConnectionError:
            return True

    def go_away(self) -> None:
        """Close the connection, as a client that was ended does."""
        self._socket.close()


def events_of(lines: Iterator[str]) -> Iterator[Json]:
    """The events of a stream, each checked against its record; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields |= {name: value} if name else {}
        elif fields:
            record = json.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (str(record["id"]), record["type"])
            yield record
            fields = {}


def following(stream: Iterator[T]) -> T:
    """The next event of a stream that goes on: one ends early if its API does, for whatever reason its log says."""
    for event in stream:
        return event
    raise AssertionError("the stream has ended: its API was stopping, or the job is final")


@contextmanager
def listening(url: str, job_id: str, *, last: int | None = None) -> Iterator[Iterator[Json]]:
    """The events of a job as a stream, after number `last`."""
    headers = {"Accept": "text/event-stream", **({} if last is None else {"Last-Event-ID": str(last)})}
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", headers=headers, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        yield events_of(answer.iter_lines())


def order(url: str) -> str:
    """The id of a new job on records without inspection."""
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {f"{kind}_id": client.post(f"/v1/{kind}s", content=b"x").json()["id"] for kind in ("model", "dataset")}
        return str(client.post("/v1/jobs", json=body).json()["id"])
