"""Load, the same for every server: as fast as it answers (wrk), or at fixed moments whatever it does; no server."""

from __future__ import annotations

import gc
import json
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.common import Array, missing
from benchmarks.serving.payloads import Failed, Request

Json = dict[str, Any]
CONNECTIONS = 16
_SCRIPT = Path(__file__).with_name("wrk_post.lua")
#: More requests than this are never under way at once; the next ones wait here, and their time runs.
_PACED_CONNECTIONS = 64
_PATIENCE_S = 10.0


def need_wrk() -> None:
    """Raise SystemExit where there is no wrk."""
    if shutil.which("wrk") is None:
        raise missing("wrk", "`apt install wrk` brings it")


def full(port: int, request: Request, *, seconds: float, connections: int = CONNECTIONS) -> Json:
    """wrk, one thread: every connection sends its next request as soon as the last is answered.

    Returns what `counted` does. Raises Failed if any answer was not 200 (wrk counts statuses from 400 on) or any
    connection broke. The latencies are those of a closed loop, which sends less while the server is slow: good for
    comparing, not for promising; see `paced`.
    """
    found = counted(port, request, seconds=seconds, connections=connections)
    if found["not_200"] or found["broken"] or not found["requests"]:
        raise Failed(f"load on {request.path} at port {port} went wrong: {found}")
    return found


def counted(port: int, request: Request, *, seconds: float, connections: int) -> Json:
    """The load of `full`, with errors counted and not raised.

    Returns requests, seconds, per_second (of answers with 200), p50_ms, p90_ms, p99_ms, slowest_ms, not_200, broken.
    Raises Failed where the server cannot be reached at all.
    """
    with tempfile.NamedTemporaryFile(prefix="wrk-body-") as body:
        body.write(request.body)
        body.flush()
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}{request.path}", "--", body.name, *headers]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Failed(f"wrk ended with {answer.returncode}: {answer.stdout}{answer.stderr}")
    found: Json = json.loads(answer.stdout.splitlines()[-1])
    return {**found, "per_second": (found["requests"] - found["not_200"]) / found["seconds"]}


def once(port: int, request: Request) -> tuple[Mapping[str, str], bytes]:
    """Send the request once; returns headers (names in lower case) and body. Raises Failed if it is not 200."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request.wire(port))
        answer = _Answer()
        while not answer.complete:
            answer.add(connection.recv(1 << 18))
    if answer.status != 200:
        raise Failed(f"{request.path} at port {port} answered {answer.status}: {bytes(answer.body[:2000])!r}")
    return answer.headers, bytes(answer.body)


def arrivals(rate: float, seconds: float, *, even: bool) -> Array:
    """Moments (N,) in seconds: evenly spaced, or as independent clients come (Poisson, always the same draw)."""
    count = round(rate * seconds)
    if even:
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(0).exponential(1 / rate, count))


def paced(port: int, request: Request, moments: Array) -> Json:
    """Open loop: requests are due at these moments (N,), and each latency counts from then, sent late or not.

    So a server that stops for a second is charged with every request that was due in it (no coordinated omission).
    Returns p50_ms, p90_ms, p99_ms, slowest_ms, and how late this client itself was (`late_p99_ms`: from the moment
    that a request was due, with a connection free for it, to its sending). Raises Failed as `full` does.
    """
    connections = [_Connection(port) for _ in range(_PACED_CONNECTIONS)]
    try:
        gc.collect()
        gc.disable()
        latencies, lateness = _play(connections, request.wire(port), moments)
    finally:
        gc.enable()
        for connection in connections:
            connection.socket.close()
    shares = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "slowest_ms": 100.0}
    found = {name: 1000 * float(np.percentile(latencies, share)) for name, share in shares.items()}
    late = 1000 * float(np.percentile(lateness, 99)) if lateness else 0.0
    return {"requests": len(latencies), "seconds": float(moments[-1]), **found, "late_p99_ms": late}


def _play(connections: list[_Connection], wire: bytes, moments: Array) -> tuple[list[float], list[float]]:
    """One thread and `select`, whose timeout has microseconds (epoll's and libuv's timers have milliseconds)."""
    free, busy = deque(connections), dict[int, _Connection]()
    waiting, latencies, lateness = deque[float](), list[float](), list[float]()
    due = deque((moments + time.perf_counter() + 0.05).tolist())
    while due or waiting or busy:
        now = time.perf_counter()
        while due and due[0] <= now:
            waiting.append(due.popleft())
        while waiting and free:
            connection = free.popleft()
            connection.begun = waiting.popleft()
            connection.socket.sendall(wire)
            busy[connection.socket.fileno()] = connection
            if not connection.freed_for_waiting:
                lateness.append(time.perf_counter() - connection.begun)
        timeout = max(0.0, due[0] - time.perf_counter()) if due else _PATIENCE_S
        readable, _, _ = select.select(list(busy), [], [], timeout)
        if not readable and not due:
            raise Failed(f"{len(busy)} requests were not answered within {_PATIENCE_S} s")
        for number in readable:
            if (connection := busy[number]).read():
                latencies.append(time.perf_counter() - connection.begun)
                del busy[number]
                connection.freed_for_waiting = bool(waiting)
                free.append(connection)
    return latencies, lateness


@dataclass
class _Answer:
    """An HTTP answer that arrives in pieces; its length must stand in its head."""

    head: bytearray = field(default_factory=bytearray)
    body: bytearray = field(default_factory=bytearray)
    status: int = 0
    length: int = -1

    @property
    def complete(self) -> bool:
        return self.length >= 0 and len(self.body) >= self.length

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}

    def add(self, piece: bytes) -> None:
        if not piece:
            raise Failed(f"a connection was closed before its answer: {bytes(self.head[:200])!r}")
        if self.length >= 0:
            self.body += piece
            return
        self.head += piece
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return
        self.body, self.head = self.head[end + 4 :], self.head[:end]
        at = self.head.lower().find(b"content-length: ")
        if at < 0:
            raise Failed(f"an answer without Content-Length: {bytes(self.head)!r}")
        self.status = int(self.head.split(b" ", 2)[1])
        self.length = int(self.head[at + 16 :].split(b"\r\n", 1)[0])


class _Connection:
    """One kept connection of the open loop."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begun = 0.0
        self.freed_for_waiting = False
        self._answer = _Answer()

    def read(self) -> bool:
        """Take what has arrived; returns whether the answer is complete."""
        self._answer.add(self.socket.recv(1 << 18))
        if not self._answer.complete:
            return False
        if self._answer.status != 200:
            raise Failed(f"status {self._answer.status}: {bytes(self._answer.body[:500])!r}")
        self._answer = _Answer()
        return True
