"""Our service as its users start it: `fedlas serve`, keys on, models uploaded over HTTP; it measures nothing."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.data.common import Array
from benchmarks.serving import payloads
from benchmarks.serving.environments import ROOT
from benchmarks.serving.payloads import Failed, Request
from benchmarks.serving.processes import Running, running
from tests.helpers.processes import free_port

Json = dict[str, Any]
KEY = "key-of-the-benchmark-0123456789a"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Fedlas:
    """A running `fedlas serve`; authentication, metrics and request ids are on, as always with keys."""

    running: Running
    data_dir: Path

    def upload(self, contents: list[bytes]) -> list[str]:
        """Send ONNX files as a client does, wait until each is ready, and return the models' ids."""
        url = f"http://127.0.0.1:{self.running.port}"
        with httpx.Client(base_url=url, headers=AUTHORIZATION, timeout=90) as client:
            created = [client.post("/v1/models", content=content) for content in contents]
            for answer in created:
                answer.raise_for_status()
            ids = [str(answer.json()["id"]) for answer in created]
            for number, model_id in enumerate(ids):
                status = "inspecting"
                while status == "inspecting":
                    record = client.get(f"/v1/models/{model_id}", params={"wait": 60}).json()
                    status = record["status"]
                if status != "ready":
                    raise Failed(f"model {number} is {status}: {record}")
        return ids


@contextmanager
def serving(data_dir: Path | None = None, *, checkout: Path = ROOT, **environment: str) -> Iterator[Fedlas]:
    """Start it on this data folder, or on a fresh one, and end it after the block; `checkout` is whose code runs."""
    with tempfile.TemporaryDirectory(prefix="fedlas-serving-") as name:
        folder, port = data_dir or Path(name), free_port()
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--data-dir", str(folder)]
        environment = {"PYTHONPATH": str(checkout), **environment}
        # The service is frozen while others are measured, and must not take that for a process that hangs.
        given: Mapping[str, str] = {"FEDLAS_API_KEYS": KEY, "FEDLAS_HUNG_SECONDS": "86400", **environment}
        with running("fedlas", command, port=port, ready="/readyz", environment=given, folder=checkout) as found:
            yield Fedlas(found, folder)


def predict(model_id: str, rows: Array, **options: Any) -> Request:
    """`POST /v1/models/{id}/predict` of rows (N, D) as JSON."""
    path = f"/v1/models/{model_id}/predict"
    return payloads.rows_json(path, rows, read=payloads.read_predictions, **options).with_headers(AUTHORIZATION)


def infer(model_id: str, rows: Array, *, outputs: tuple[str, ...] = ("probabilities",)) -> Request:
    """`POST /v2/models/{id}/infer` of rows (N, D) as JSON."""
    return payloads.oip_json(_infer(model_id), rows, outputs=outputs).with_headers(AUTHORIZATION)


def infer_binary(model_id: str, rows: Array, *, outputs: tuple[str, ...] = ("probabilities",)) -> Request:
    """`POST /v2/models/{id}/infer` of rows (N, D) as binary tensors both ways."""
    return payloads.oip_binary(_infer(model_id), rows, outputs=outputs).with_headers(AUTHORIZATION)


def _infer(model_id: str) -> str:
    return f"/v2/models/{model_id}/infer"
