"""Workers as an operator starts them, `celery -A worker.app worker`, beside a benchmark's API, and work for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.api_process import Api
from benchmarks.server_load import cpu_seconds
from tests.helpers.processes import die_with_parent, until
from tests.helpers.uploads import Uploads

_ROOT = Path(__file__).parents[1]
#: Everything but calibrations.
LIGHT = ("inspect", "plan", "predict", "deliver")
_STOP_S = 30.0
#: One candidate that trains for longer than it is looked at.
_LONG = {"method": "fedlas", "budget": {"minutes": 30, "candidates": 1}, "hyperparameters": {"epochs": 1000}}


@dataclass(frozen=True)
class Worker:
    """A running worker."""

    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        """What the worker and its children that have ended have computed so far."""
        return cpu_seconds(self.process.pid)


@contextmanager
def celery_worker(
    environment: Mapping[str, str], queues: Sequence[str], *, concurrency: int = 1, log: Path | None = None
) -> Iterator[Worker]:
    """One worker on one thread of arithmetic, stopped with the block."""
    command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker"]
    command += ["-Q", ",".join(queues), "-c", str(concurrency), "-n", f"{'-'.join(queues)}-{os.urandom(3).hex()}@%h"]
    with ExitStack() as stack:
        output = stack.enter_context((log or Path(os.devnull)).open("ab"))
        process = subprocess.Popen(
            command, cwd=_ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, preexec_fn=die_with_parent(),
        )  # fmt: skip
        try:
            yield Worker(process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def celery_workers(
    number: int, environment: Mapping[str, str], queues: Sequence[str], *, log: Path | None = None
) -> Iterator[list[Worker]]:
    """So many of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(celery_worker(environment, queues, log=log)) for _ in range(number)]


@contextmanager
def training_job(api: Api, files: tuple[bytes, bytes] | None = None, *, epoch: int = 20) -> Iterator[str]:
    """A job that has come to this epoch and trains within the block, where workers inspect and calibrate; its id.

    Args:
        files: model and dataset; digits and a perceptron of which an epoch takes milliseconds, where none are given.
    """
    if files is None:
        files = Uploads()["digits.onnx"], Uploads()["digits.npz"]
    with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=30) as client:
        model_id, dataset_id = (
            client.post(f"/v1/{kind}", content=content).raise_for_status().json()["id"]
            for kind, content in zip(("models", "datasets"), files, strict=True)
        )
        body = {**_LONG, "model_id": model_id, "dataset_id": dataset_id}
        job_id = str(client.post("/v1/jobs", json=body).raise_for_status().json()["id"])
        at = f"/v1/jobs/{job_id}"
        until(lambda: (client.get(at).json()["progress"].get("epoch") or 0) >= epoch, seconds=180, what="it trains")
        yield job_id
        client.post(f"{at}/cancel").raise_for_status()
