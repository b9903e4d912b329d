"""`fedlas serve` as a process of its own, on the backends that the tests run on, and what its users do with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text

from tests.helpers import ROOT, Json, backends
from tests.helpers.processes import children_of, descendants_of, free_port, is_alive, until

__all__ = ["FINAL", "ROOT", "Json", "Service", "children_of", "descendants_of", "is_alive", "serving", "until"]


FINAL = ("succeeded", "failed", "cancelled", "ready", "rejected")


class Service:
    """A running `fedlas serve` and a client for it."""

    def __init__(self, data_dir: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.log_file = data_dir.with_name(f"{data_dir.name}.log")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")},
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        self._inspected: dict[str, Json] = {}
        self.start()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        port = free_port()
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--data-dir", str(self.data_dir)]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90)
        until(self._is_ready, what=f"the service is ready; its log: {self.log}")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        """The log so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def tried(self) -> Service:
        """Wait until both workers have opened their samples, whose children are those of no work."""
        until(lambda: self.log.count("a process that opens an upload takes") >= 2, what="both samples are opened")
        return self

    def pid(self, part: str) -> int:
        """The process id of `control`, `serving-1`, `acceptor`, `worker` or `broker`."""
        return int((self.data_dir / "run" / f"{part}.pid").read_text())

    @property
    def stored(self) -> Path:
        """The folder of its stored files; of a bucket's, what is at hand of them, and what is still coming in."""
        in_bucket = self._environment.get("FEDLAS_ARTIFACTS", "").startswith("s3://")
        return self.data_dir / ("artifact-cache" if in_bucket else "artifacts")

    def left_over_files(self) -> list[str]:
        """Files that belong to no record."""
        # os.walk, not rglob: a folder of the work may vanish between its being listed and its being read.
        walks = [os.walk(folder) for folder in (self.data_dir / "work", self.stored / "incoming")]
        return [f"{folder}/{name}" for walk in walks for folder, _, names in walk for name in names]

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """The rows that its database answers to a SELECT, whichever database that is."""
        url = self._environment.get("FEDLAS_DATABASE_URL", f"sqlite:///{self.data_dir / 'registry.sqlite'}")
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(query), values)]
        finally:
            engine.dispose()

    def stop(self) -> None:
        """Ctrl-C; it must end well and leave no process behind."""
        below = descendants_of(self.process.pid)
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        left = {pid for pid in below if is_alive(pid)}
        assert (code, left) == (0, set()), self.log

    def end_by_force(self) -> None:
        """For tests that have failed: nothing of it may run on."""
        self.client.close()
        if self.process.poll() is None:  # once it was reaped its id may be anybody's
            for pid in descendants_of(self.process.pid):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait()

    def upload(self, kind: str, content: bytes, **options: Any) -> Json:
        """Send a model or dataset (`models`, `datasets`) and return its record, not yet inspected."""
        answer = self.client.post(f"/v1/{kind}", content=content, params=options)
        assert answer.status_code == 201, answer.text
        record: Json = answer.json()
        return record

    def inspected(self, kind: str, content: bytes, **options: Any) -> Json:
        """Send a model or dataset and wait until it is ready or rejected; what was sent before is not sent again."""
        key = json.dumps([kind, sha256(content).hexdigest(), options], sort_keys=True)
        if key not in self._inspected:
            self._inspected[key] = self.final(f"/v1/{kind}/{self.upload(kind, content, **options)['id']}")
        return self._inspected[key]

    def order(self, model: Json, dataset: Json, **options: Any) -> Json:
        """Order a short calibration; `options` are fields of the job."""
        body = {
            "budget": {"minutes": 1, "candidates": 1},
            "hyperparameters": {"epochs": 2},
            **options,
            "model_id": model["id"],
            "dataset_id": dataset["id"],
        }
        answer = self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str, *, wait: float = 0) -> Json:
        """The job now, or as soon as it has ended."""
        answer = self.client.get(f"/v1/jobs/{job_id}", params={"wait": wait})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, job_id: str, *, seconds: float = 240) -> Json:
        """Wait for the job's end."""
        return self.final(f"/v1/jobs/{job_id}", seconds=seconds)

    def final(self, path: str, *, seconds: float = 240) -> Json:
        """A record as it is when its work has ended; on a busy machine that takes a while."""
        until(lambda: self.get(path, wait=10)["status"] in FINAL, seconds=seconds, what=f"{path} ends")
        return self.get(path)

    def calibrated(self, model: Json, dataset: Json, **options: Any) -> Json:
        """Order a short calibration and return the job when it has succeeded."""
        job = self.ended(self.order(model, dataset, **options)["id"])
        assert job["status"] == "succeeded", (job, self.log)
        return job

    def get(self, path: str, **params: Any) -> Json:
        """GET that must succeed, as JSON."""
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def predict(self, model: str, inputs: Any, **options: Any) -> list[Json]:
        """Predict that must succeed."""
        answer = self.client.post(f"/v1/models/{model}/predict", json={"inputs": inputs, **options})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["predictions"])


@contextmanager
def serving(data_dir: Path, **environment: str) -> Iterator[Service]:
    """Run the service for the block, and end it the way its owner does."""
    with backends.place(data_dir, migrated=False) as settings:
        one = {"FEDLAS_API_PROCESSES": "1"} if environment.get("FEDLAS_WALL") != "off" else {}  # a quick start
        service = Service(data_dir, environment={**one, **backends.environment(settings), **environment})
        try:
            yield service
            service.stop()
        finally:
            service.end_by_force()
