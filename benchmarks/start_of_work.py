"""From queued to begun on a quiet system: how long after a request's sending its child process exists.

    python -m benchmarks.start_of_work --inspections 30 --jobs 10 [--checkout ../older]

A whole `fedlas serve`, with nothing to do but one record at a time: the request is sent, its row committed, a worker
told of it, the row claimed, its files laid out and an interpreter started. All of that is counted, from the first byte
of the request until the child is seen in `/proc`, where this process looks every two milliseconds. Between two rounds
everything has ended, and a moment drawn at random passes, so that no round meets a poll at the same phase.
`answered_ms` is when the client has its answer, before or after the child has begun.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.processes import free_port, until
from tests.helpers.service import FINAL, ROOT
from tests.helpers.uploads import Uploads

Json = dict[str, Any]

_LOOK_EVERY_S = 0.002
_LONGEST_S = 60.0
#: Nothing but a temperature is fitted: the job ends soon.
_SHORT: Json = {"method": "temperature", "budget": {"minutes": 1}}


class Children:
    """The sandboxed children of one service, known by the private folder that each is started with."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = os.fsencode(data_dir)

    def next_begins(self, known: Collection[str], deadline: float) -> float:
        """The moment at which a child is seen that is none of the processes known before."""
        while time.perf_counter() < deadline:
            for pid in _processes().difference(known):  # again and again: until `exec` it has its parent's command
                command = _command(pid)
                if b"worker.inside.child" in command and self._data_dir in command:
                    return time.perf_counter()
            time.sleep(_LOOK_EVERY_S)
        raise AssertionError(f"no child within {_LONGEST_S} s")


def _processes() -> set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()}


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Bench:
    """A quiet service and a client that asks one thing after another."""

    def __init__(self, client: httpx.Client, data_dir: Path) -> None:
        self._client, self._children = client, Children(data_dir)
        self._uploads = Uploads()
        self._watcher = ThreadPoolExecutor(1)

    def inspection(self) -> Json:
        """Upload a model; its inspection is the work."""
        return self._round("/v1/models", content=self._uploads["digits.onnx"])

    def jobs(self) -> Iterator[Json]:
        """Order one job after another of the same two records."""
        model, dataset = (self._ready(kind) for kind in ("models", "datasets"))
        while True:
            yield self._round("/v1/jobs", json={**_SHORT, "model_id": model, "dataset_id": dataset})

    def _ready(self, kind: str) -> str:
        content = self._uploads["digits.onnx" if kind == "models" else "digits.npz"]
        record = self._client.post(f"/v1/{kind}", content=content).raise_for_status().json()
        self._until_final(f"/v1/{kind}/{record['id']}")
        return str(record["id"])

    def _round(self, path: str, **body: Any) -> Json:
        known = _processes()
        begun: Future[float] = self._watcher.submit(self._children.next_begins, known, time.perf_counter() + _LONGEST_S)
        time.sleep(random.uniform(0.3, 1.3))
        sent = time.perf_counter()
        record = self._client.post(path, **body).raise_for_status().json()
        answered = time.perf_counter()
        seconds = {"begun": begun.result() - sent, "answered": answered - sent}
        self._until_final(f"{path}/{record['id']}")
        return seconds

    def _until_final(self, path: str) -> None:
        until(lambda: self._client.get(path).json()["status"] in FINAL, seconds=120, what=f"{path} ends")


@contextmanager
def serving(checkout: Path, data_dir: Path) -> Iterator[httpx.Client]:
    """A `fedlas serve` of that tree, ended with the block, and a client for it."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
    environment = {**clean, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with (data_dir.with_name("serve.log")).open("wb") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda: _answers(client), seconds=60, what="the service is ready")
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def summary(rounds: Sequence[Json]) -> Json:
    """Median and slowest; the first round, which finds every cache cold, is left out."""
    begun, answered = ([1000 * one[name] for one in rounds[1:]] for name in ("begun", "answered"))
    return {
        "rounds": len(begun),
        "begun_ms_median": round(statistics.median(begun), 1),
        "begun_ms_slowest": round(max(begun), 1),
        "answered_ms_median": round(statistics.median(answered), 1),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inspections", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the service of another tree")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as name:
        data_dir = Path(name) / "data"
        with serving(options.checkout.resolve(), data_dir) as client:
            bench = Bench(client, data_dir)
            before = os.getloadavg()
            inspections = [bench.inspection() for _ in range(options.inspections + 1)]
            jobs = list(itertools.islice(bench.jobs(), options.jobs + 1))
    load = [round(one, 2) for one in (before[0], os.getloadavg()[0])]
    result = {"inspections": summary(inspections), "jobs": summary(jobs), "load_before_and_after": load}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
