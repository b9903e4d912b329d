"""The third stage of the calibration benchmark: jobs, and what is served afterwards.

Over HTTP `fedlas serve` runs on loopback with all its parts: model and dataset are uploaded, a job is ordered, and the
model that it names answers the hidden rows through the Open Inference Protocol. `benchmarks.worker_jobs` does the same
with the worker's functions alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.data.common import Array
from benchmarks.settings import SETTINGS
from fedlas.errors import FedLASError

Json = dict[str, Any]
#: A setting, a seed and the folder of its base.
Run = tuple[str, int, Path]
_ROWS = 1000  # per request
_START_S = 120.0
_JOB_S = 3600.0
_TYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}


class JobFailed(Exception):
    """A record was rejected, or a job did not succeed; the message holds the service's own words."""


@dataclass(frozen=True)
class Order:
    """The options that every job is created with."""

    method: str = "post_hoc"
    minutes: float = 30.0

    def request(self, seed: int) -> Json:
        """The members of a request beside the model and the dataset."""
        return {"method": self.method, "budget": {"minutes": self.minutes}, "seed": seed}

    def folder(self, run: Run) -> Path:
        """Where the answer lies: beside its base, and for other methods than the first in `SETTING-METHOD-SEED`."""
        name, seed, base = run
        return base if self.method == Order.method else base.with_name(f"{name}-{self.method}-{seed}")

    def section(self, name: str) -> str:
        """The section of the tables."""
        section = SETTINGS[name].section
        return section if self.method == Order.method else f"{section}-{self.method}"


def missing_jobs(runs: Sequence[Run], order: Order) -> list[Run]:
    """Runs that have no `served.npz` yet."""
    return [run for run in runs if not (order.folder(run) / "served.npz").exists()]


def run_jobs(runs: Sequence[Run], order: Order, *, at_once: int) -> None:
    """Run what is missing; a run that fails is printed, written down as `failed.json`, and left out."""
    with running_service(at_once) as url, ThreadPoolExecutor(at_once) as pool:

        def one(run: Run) -> None:
            with httpx.Client(base_url=url, timeout=120) as client:
                keep(run, order, lambda folder: _calibrated(client, run, order))

        list(pool.map(one, runs))


def keep(run: Run, order: Order, calibrated: Callable[[Path], tuple[Json, Json, NDArray[np.float64]]]) -> None:
    """Write down a job's answer, its report and probabilities (N, K) of hidden rows; `calibrated` may leave more."""
    (name, seed, _), folder = run, order.folder(run)
    folder.mkdir(exist_ok=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    told: Json = {"setting": name, "seed": seed, "title": SETTINGS[name].title, "section": order.section(name)}
    try:
        found, report, served = calibrated(folder)
    except (JobFailed, FedLASError, httpx.HTTPError) as problem:
        words = f"{type(problem).__name__}: {problem}"
        (folder / "failed.json").write_text(json.dumps(told | {"error": words}, indent=1) + "\n")
        print(f"FAILED {name}, seed {seed}: {words}", flush=True)
        return
    told |= found | {"seconds": round(time.perf_counter() - began, 1)}
    if found["through"] != "http":  # over HTTP others compute
        told["cpu_seconds"] = round(time.process_time() - cpu_began, 1)
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (folder / "run.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    unfinished = folder / "served.unfinished.npz"
    np.savez_compressed(unfinished, served=served)
    unfinished.replace(folder / "served.npz")  # last: where it is, the stage has ended
    (folder / "failed.json").unlink(missing_ok=True)
    print(f"job of {name}, seed {seed}: {told['verdict']}, {told['served']}, {told['seconds']:.0f} s", flush=True)


def _calibrated(client: httpx.Client, run: Run, order: Order) -> tuple[Json, Json, NDArray[np.float64]]:
    """The job's record, its report, and (N, K) probabilities of the hidden rows by the model that it names."""
    name, seed, folder = run
    seen = SETTINGS[name].seen_by_model
    dataset = _uploaded(client, f"/v1/datasets?name={name}&seen_by_model={seen}", folder / "dataset.npz")
    names = ",".join(dataset["class_names"])
    model = client.build_request("POST", "/v1/models", params={"name": name, "class_names": names}).url
    ids = {"model_id": _uploaded(client, str(model), folder / "model.onnx")["id"], "dataset_id": dataset["id"]}
    job: Json = _json(client.post("/v1/jobs", json=ids | order.request(seed)))
    deadline = time.monotonic() + _JOB_S
    while job["status"] not in ("succeeded", "failed", "cancelled") and time.monotonic() < deadline:
        job = _json(client.get(f"/v1/jobs/{job['id']}", params={"wait": 30}))
    if job["status"] != "succeeded":
        raise JobFailed(f"{job['status']}: {job['error']}")
    report: Json = _json(client.get(f"/v1/jobs/{job['id']}/report"))
    served = _probabilities(client, job["calibrated_model_id"], folder / "hidden_inputs.npz")
    return told_of(report) | {"through": "http", "splits": dataset["splits"]}, report, served


def told_of(report: Json) -> Json:
    """The part of a report that goes into the table of runs."""
    gate = report["gate"]
    failed = [guard for guard in gate["guards"] if not guard["passed"]]
    return {
        "verdict": report["verdict"],
        "serves": report["serves"],
        "significant": gate["significant"],
        "served": gate["finalist"] or "as uploaded",
        "guards_failed": sorted({f"{guard['finalist']}: {guard['name']}" for guard in failed}),
        "vetoes": gate["vetoes"],
    }


def _uploaded(client: httpx.Client, url: str, path: Path) -> Json:
    record: Json = _json(client.post(url, content=path.read_bytes()))
    place = url.partition("?")[0]
    while record["status"] == "inspecting":
        record = _json(client.get(f"{place}/{record['id']}", params={"wait": 30}))
    if record["status"] != "ready":
        raise JobFailed(f"{path.name} was rejected: {record['error']}")
    return record


def _probabilities(client: httpx.Client, model: str, path: Path) -> NDArray[np.float64]:
    """(N, K) of the rows of a file, 1,000 in a request, as binary tensors."""
    inputs = dict(np.load(path).items())
    starts = range(0, len(next(iter(inputs.values()))), _ROWS)
    parts = [_inferred(client, model, {n: a[at : at + _ROWS] for n, a in inputs.items()}) for at in starts]
    return np.concatenate(parts).astype(np.float64)


def _inferred(client: httpx.Client, model: str, inputs: dict[str, Array]) -> Array:
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": _TYPES[str(array.dtype)],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": tensors, "outputs": outputs}).encode()
    body = header + b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
    length = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    answer = client.post(f"/v2/models/{model}/infer", content=body, headers=length)
    if answer.status_code != 200:
        raise JobFailed(f"predictions: {answer.status_code} {answer.text[:500]}")
    size = int(answer.headers["Inference-Header-Content-Length"])
    told = json.loads(answer.content[:size])["outputs"][0]
    dtype = {"FP32": np.float32, "FP64": np.float64}[told["datatype"]]
    return np.frombuffer(answer.content[size:], dtype).reshape(told["shape"])


def _json(answer: httpx.Response) -> Json:
    if answer.is_error:
        raise JobFailed(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}")
    found: Json = answer.json()
    return found


@contextmanager
def running_service(jobs: int) -> Iterator[str]:
    """The address of `fedlas serve` on a free port of loopback, with a data folder of its own; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as name:
        folder = Path(name)
        where = ["--port", str(port), "--data-dir", str(folder / "data")]
        command = [sys.executable, "-m", "service.cli", "serve", *where]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
        environment |= {"FEDLAS_HEAVY_CONCURRENCY": str(jobs)}
        with (folder / "serve.log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                _await_ready(f"http://127.0.0.1:{port}", server, folder / "serve.log")
                yield f"http://127.0.0.1:{port}"
            finally:
                server.send_signal(signal.SIGINT)
                server.wait()


def _await_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the service did not start:\n{log.read_text()}")
