"""What passes control by itself: uploads of 2 GiB, events for 1,000 clients, pages; also through a relay.

The relay stands for the other design: one front that accepts all connections, answers predictions itself and streams
everything else on to control. It is only its streaming half, in a process of its own that nothing else disturbs.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import httpx
from sqlalchemy import make_url

from benchmarks.api_process import percentile
from benchmarks.serving.environments import ROOT
from benchmarks.serving.ours import AUTHORIZATION
from benchmarks.wall.forms import Form, Json
from service.registry.registry import Registry
from service.settings import ServiceSettings
from tests.helpers.processes import die_with_parent, free_port, until

_PIECE = bytes(1024**2)
_PAGES = ("/", "/models", "/jobs", "/operations", "/v1/models?limit=20", "/v1/jobs?limit=20")
_KEY = "".join(f"{name}: {value}\r\n" for name, value in AUTHORIZATION.items())
_LONGEST_S = 120.0


@dataclass(frozen=True)
class Relay:
    """A running relay."""

    port: int
    pid: int


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """Start it in front of this port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.wall.relay", str(port), str(target)]
    child = subprocess.Popen(command, cwd=ROOT, preexec_fn=die_with_parent())
    try:
        until(lambda: _listens(port), seconds=60, what="the relay listens")
        yield Relay(port, child.pid)
    finally:
        child.kill()
        child.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def upload(form: Form, port: int, *, mebibytes: int) -> Json:
    """Send one file; seconds until its record is there. It is deleted afterwards."""
    with socket.create_connection(("127.0.0.1", port), timeout=_LONGEST_S) as client:
        head = f"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\n{_KEY}Content-Type: application/octet-stream\r\n"
        began = time.perf_counter()
        client.sendall(f"{head}Content-Length: {mebibytes << 20}\r\n\r\n".encode())
        client.sendall(os.urandom(16) + _PIECE[16:])  # another file each time
        for _ in range(mebibytes - 1):
            client.sendall(_PIECE)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        record = json.load(answer)
        seconds = time.perf_counter() - began
    assert answer.status in (201, 202), record
    with _client(form) as api:
        api.get(f"/v1/datasets/{record['id']}", params={"wait": 60}).raise_for_status()
        api.delete(f"/v1/datasets/{record['id']}").raise_for_status()
    return {"seconds": seconds, "mb_per_s": (mebibytes << 20) / 1e6 / seconds}


def pages(port: int, *, seconds: float) -> Json:
    """Pages and lists per second, one after the other over one connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        _read_pages(client)  # templates are read once
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            count += _read_pages(client)
        return {"per_second": count / (time.perf_counter() - began)}


def _read_pages(client: http.client.HTTPConnection) -> int:
    for path in _PAGES:
        client.request("GET", path, headers=AUTHORIZATION)
        answer = client.getresponse()
        answer.read()
        assert answer.status == 200, (path, answer.status)
    return len(_PAGES)


def events(form: Form, port: int, *, clients: int) -> Json:
    """Everybody listens to one job, which then ends: seconds until all are connected, and until they know."""
    settings = ServiceSettings(data_dir=form.service.data_dir)
    with closing(Registry.open(settings)) as registry, _workers_stopped(form, settings):  # nobody shall take the job
        return asyncio.run(_listened(registry, _job(form, registry), port, clients))


@contextmanager
def _workers_stopped(form: Form, settings: ServiceSettings) -> Iterator[None]:
    """Stop them between two transactions: within one they would keep all others from the database."""
    workers = form.workers()
    database = make_url(settings.resolved_database_url).database or ""
    while not _stopped(workers, database):
        time.sleep(0.05)
    try:
        yield
    finally:
        _tell(workers, signal.SIGCONT)


def _stopped(workers: set[int], database: str) -> bool:
    _tell(workers, signal.SIGSTOP)
    time.sleep(0.1)  # until each of their threads has seen it
    with closing(sqlite3.connect(database, timeout=0.5)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            _tell(workers, signal.SIGCONT)
            return False
    return True


def _tell(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _client(form: Form) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{form.port}", headers=AUTHORIZATION, timeout=_LONGEST_S)


def _job(form: Form, registry: Registry) -> str:
    with _client(form) as client:
        dataset = client.post("/v1/datasets", content=os.urandom(16)).raise_for_status().json()["id"]
        with registry.write() as unit:
            unit.datasets.ready(dataset, profile={}, prepared_sha256=unit.datasets.get(dataset).sha256)
        answer = client.post("/v1/jobs", json={"model_id": form.digits, "dataset_id": dataset}).raise_for_status()
    return str(answer.json()["id"])


async def _listened(registry: Registry, job_id: str, port: int, clients: int) -> Json:
    waiting = asyncio.Semaphore(0)
    began = time.perf_counter()
    tasks = [asyncio.create_task(_listen(port, job_id, waiting)) for _ in range(clients)]
    async with asyncio.timeout(_LONGEST_S):
        for _ in tasks:
            await waiting.acquire()
        connected = time.perf_counter() - began
        await asyncio.sleep(1.0)
        await asyncio.to_thread(_end, registry, job_id)
        ended = time.perf_counter()
        seconds = sorted(moment - ended for moment in await asyncio.gather(*tasks))
    return {"connected_s": connected, "p50_s": percentile(seconds, 0.5), "last_s": seconds[-1]}


def _end(registry: Registry, job_id: str) -> None:
    with registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(job_id), "cancelled")


async def _listen(port: int, job_id: str, waiting: asyncio.Semaphore) -> float:
    """The moment at which the final event has arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n{_KEY}Accept: text/event-stream\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    await reader.readuntil(b"id: 1\n")
    waiting.release()
    await reader.readuntil(b'"status":"cancelled"')
    moment = time.perf_counter()
    writer.close()
    return moment
