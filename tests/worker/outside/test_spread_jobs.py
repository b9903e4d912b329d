"""Jobs with real children on several workers: the same report as on one, also where a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.registry import tables
from service.registry.contract import ANY_DEVICE, JobRequest
from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.registry.repositories import ClaimLimits
from tests.helpers import backends
from tests.helpers.processes import children_of, until
from tests.helpers.uploads import Uploads
from tests.helpers.work import execute
from worker.outside.supervisor import Supervisor
from worker.outside.versions import race_versions
from worker.settings import WorkerSettings

Json = dict[str, Any]

#: Four candidates run two folds, the best three the third, and two are refitted.
REQUEST: Json = {
    "method": "auto",
    "hyperparameters": {"batch_size": 16, "learning_rate": 0.1, "epochs": 40},
    "budget": {"minutes": 10, "candidates": 4},
}
LONG = 600
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = ClaimLimits(versions=race_versions())


class Site:
    """A registry with a model and a dataset that are inspected, and workers of one thread each."""

    def __init__(self, place: Json, uploads: Uploads, *, spread_seconds: float | None) -> None:
        self.registry = Registry.open(WorkerSettings(**place))
        self.settings = WorkerSettings(
            **place, heartbeat_seconds=0.2, lease_seconds=5, checkpoint_seconds=0, spread_seconds=spread_seconds
        )
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []
        self.model_id = self._inspected("mdl", uploads["digits.onnx"])
        self.dataset_id = self._inspected("ds", uploads["digits.npz"])
        self.job_id = self._ordered()

    def _inspected(self, prefix: str, content: bytes) -> str:
        with self.registry.artifacts.stage() as staged:
            staged.write(content)
            common: Json = {
                "id": f"{prefix}_1", "name": "digits", "bytes": len(content), "status": "inspecting", "options": {},
                "created_at": MOMENT, "sha256": staged.keep(),
            }  # fmt: skip
        with self.registry.write() as unit:
            if prefix == "mdl":
                unit.models.add(tables.Model(**common, origin="uploaded"))
            else:
                unit.datasets.add(tables.Dataset(**common | {"options": {"split_seed": 0, "missing": "reject"}}))
            unit.work.open(common["id"])
        execute(Supervisor(self.settings, self.registry, name="inspector"), self.registry, common["id"])
        record_id: str = common["id"]
        return record_id

    def _ordered(self) -> str:
        request = JobRequest(model_id=self.model_id, dataset_id=self.dataset_id, **REQUEST).model_dump()
        row = tables.Job(
            id="job_1", model_id=self.model_id, dataset_id=self.dataset_id, status="queued", progress={},
            history=[], request=request, created_at=MOMENT,
        )  # fmt: skip
        with self.registry.write() as unit:
            unit.jobs.open(row)
            unit.work.open(row.id)
        return row.id

    def start(self, name: str) -> None:
        """A worker begins."""
        thread = threading.Thread(target=self._work, args=(name,), name=name)
        self.threads.append(thread)
        thread.start()

    def _work(self, name: str) -> None:
        supervisor = Supervisor(self.settings, self.registry, name=name, stopping=self.stop)
        while not self.stop.is_set():
            claim = None
            with suppress(Unavailable), self.registry.write() as unit:
                claim = unit.work.claim_next(ANY_DEVICE, LIMITS, worker=name, lease_seconds=5)
            if claim is None:
                time.sleep(0.05)
            else:
                supervisor.execute(claim)

    def helper_has_saved(self) -> bool:
        """Whether the second worker is in the middle of a training; it must be before the job has ended."""
        assert self._status() in ("queued", "running")
        with self.registry.read() as unit:
            held = [piece.id for piece in unit.pieces.of(self.job_id) if unit.work.of(piece.id).worker == "b"]
            return any("running" in unit.checkpoints.of(piece_id) for piece_id in held)

    def report(self) -> bytes:
        """Of the job, when it has ended."""
        until(lambda: self._status() not in ("queued", "running"), seconds=LONG, what="the job ends")
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        with self.registry.read() as unit:
            row = unit.jobs.get(self.job_id)
            assert row.status == "succeeded", row.error
            assert unit.pieces.of(self.job_id) == []
            assert row.report_sha256 is not None
        return self.registry.artifacts.path(row.report_sha256).read_bytes()

    def _status(self) -> str:
        with self.registry.read() as unit:
            return unit.jobs.get(self.job_id).status


def killed_helper() -> int | None:
    """SIGKILL for a child that helps with a race, if one runs; its process id."""
    for pid in children_of(os.getpid()):
        with suppress(OSError):
            folder = Path(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2])
            if json.loads((folder / "request.json").read_bytes())["order"]["kind"] == "candidate":
                os.kill(pid, signal.SIGKILL)
                return pid
    return None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_race_on_two_workers_ends_as_on_one(tmp_path: Path, uploads: Uploads) -> None:
    """The report of a job whose race was spread is that of the same job on one worker, byte by byte.

    The process that helps is killed once, in the middle of a training.
    """
    reports = {}
    for name, spread, workers in (("alone", None, "a"), ("spread", 0.0, "ab")):
        with backends.place(tmp_path / name) as place:
            site = Site(place, uploads, spread_seconds=spread)
            for worker in workers:
                site.start(worker)
            if name == "spread":
                until(site.helper_has_saved, seconds=LONG, what="the helper is in the middle of a training")
                assert killed_helper() is not None
            reports[name] = site.report()
            site.registry.close()
    assert reports["spread"] == reports["alone"]
