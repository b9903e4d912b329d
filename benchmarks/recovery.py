"""How soon a job runs again after its process is lost.

    python -m benchmarks.recovery [--rounds 5]

Real processes: an API, a Valkey and workers. `child`: SIGKILL of the training process. `worker`: SIGKILL of its worker
while another worker lives on the same machine. `alone`: the same, where the worker has to be started again first.
`asleep`: SIGSTOP of the worker, so that its absence cannot be seen and its lease has to end. A job runs again when
another attempt has claimed it; until it tells of an epoch that it had not told of before, an interpreter has to start
and both inputs to be opened.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.processes import children_of, free_port, until
from tests.helpers.servers import Valkey, running
from tests.helpers.service import ROOT
from tests.helpers.uploads import Uploads

Json = dict[str, Any]

HEARTBEAT_S = 2.0
#: Longer than any round takes.
LONG = {"method": "fedlas", "budget": {"minutes": 30, "candidates": 1}, "hyperparameters": {"epochs": 1000}}


@contextmanager
def process(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    child = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Bench:
    """A service under whose feet the floor is pulled away."""

    def __init__(self, client: httpx.Client, environment: dict[str, str], stack: ExitStack) -> None:
        self.client, self.environment, self.stack = client, environment, stack
        uploads = Uploads()
        self.model = self._post("/v1/models", uploads["digits.onnx"])
        self.dataset = self._post("/v1/datasets", uploads["digits.npz"])

    def _post(self, path: str, content: bytes) -> str:
        return str(self.client.post(path, content=content).raise_for_status().json()["id"])

    def worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        return self.stack.enter_context(process(["worker"], self.environment))

    def job(self, job_id: str) -> Json:
        """The job now."""
        return dict(self.client.get(f"/v1/jobs/{job_id}").raise_for_status().json())

    def training(self) -> str:
        """A job that has trained for some epochs."""
        body = {**LONG, "model_id": self.model, "dataset_id": self.dataset}
        job_id = str(self.client.post("/v1/jobs", json=body).raise_for_status().json()["id"])
        until(lambda: (self.job(job_id)["progress"].get("epoch") or 0) > 20, seconds=120, what="it trains")
        return job_id

    def runs_again(self, job_id: str, attempt: int) -> bool:
        """Whether another attempt holds it."""
        job = self.job(job_id)
        return bool(job["attempts"] == attempt and job["status"] == "running")

    def round(self, lost: str) -> Json:
        """One loss."""
        workers = [self.worker()] if lost in ("child", "alone") else [self.worker(), self.worker()]
        job_id = self.training()
        holder = next(one for one in workers if children_of(one.pid))
        if lost == "child":
            (child,) = children_of(holder.pid)
            os.kill(child, signal.SIGKILL)
        else:
            os.kill(holder.pid, signal.SIGSTOP if lost == "asleep" else signal.SIGKILL)
        began = time.perf_counter()
        before = self.job(job_id)["progress"]["epoch"]
        if lost == "alone":
            workers.append(self.worker())
        until(lambda: self.runs_again(job_id, 2), seconds=60, what="it runs again")
        seconds = time.perf_counter() - began
        until(lambda: (self.job(job_id)["progress"].get("epoch") or 0) > before, seconds=120, what="it goes on")
        trains = time.perf_counter() - began
        self.client.post(f"/v1/jobs/{job_id}/cancel")
        until(lambda: self.job(job_id)["status"] == "cancelled", seconds=60, what="it is cancelled")
        for one in workers:
            one.send_signal(signal.SIGCONT)
            one.terminate()
            one.wait(60)
        return {"held": seconds, "trains": trains}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        broker = stack.enter_context(running(Valkey))
        port = free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
        environment = {
            **clean, "FEDLAS_DATA_DIR": str(Path(folder) / "data"), "FEDLAS_BROKER_URL": broker.url(),
            "FEDLAS_HEARTBEAT_SECONDS": str(HEARTBEAT_S), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        stack.enter_context(process(["service.cli", "api", "--port", str(port)], environment))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
        until(lambda: _answers(client), seconds=60, what="the API answers")
        bench = Bench(client, environment, stack)
        for lost in ("child", "worker", "alone", "asleep"):
            rounds = [bench.round(lost) for _ in range(options.rounds)]
            results[lost] = {
                "runs_again_s_median": round(statistics.median(one["held"] for one in rounds), 2),
                "runs_again_s_max": round(max(one["held"] for one in rounds), 2),
                "allowed_s": 2 * HEARTBEAT_S + 5,
                "new_epochs_told_s_median": round(statistics.median(one["trains"] for one in rounds), 2),
            }
    print(json.dumps(results, indent=2))


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
