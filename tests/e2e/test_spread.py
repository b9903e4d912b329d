"""A race over plain Celery workers, one of which is killed: one report, the same as on one worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import descendants_of, is_alive, until
from tests.helpers.service import ROOT, Service, serving
from tests.helpers.uploads import Uploads

Json = dict[str, Any]

#: Eight trainings in the first rung, and a budget that does not bind.
ORDER = {"hyperparameters": {"epochs": 150, "batch_size": 16}, "budget": {"minutes": 20, "candidates": 4}}
LONG = 600
_HOLDS = (
    "SELECT work.record_id FROM work JOIN checkpoints ON checkpoints.job_id = work.record_id "
    "WHERE work.kind = 'candidate' AND work.state = 'claimed' AND work.worker LIKE :worker"
)


@contextmanager
def plain_worker(service: Service) -> Iterator[subprocess.Popen[bytes]]:
    """A second machine's worker, started as Celery's operators do."""
    command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-Q", "calibrate.cpu", "-c", "1"]
    environment = {**service._environment, "FEDLAS_DATA_DIR": str(service.data_dir)}
    with service.log_file.open("ab") as log:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(60)


def trains(service: Service, worker: subprocess.Popen[bytes], job_id: str) -> bool:
    """Whether this worker is in the middle of a training; it must be before the job has ended."""
    assert service.job(job_id)["status"] == "running", service.log
    return bool(service.rows(_HOLDS, worker=f"%-{worker.pid}-%"))


def report_of(service: Service, job_id: str) -> Json:
    """Of a job that ends well at its first attempt; without names and ids, which are those of its service."""
    job = service.ended(job_id, seconds=LONG)
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", 1, None), service.log
    assert "was not kept" not in service.log, "what a lost helper had begun is gone on with, and kept"
    report: Json = service.get(job["report_url"])
    return {name: value for name, value in report.items() if name != "subject"}


def loses_a_helper(service: Service, job_id: str) -> None:
    """A plain worker helps with the race, and is killed in the middle of a training."""
    until(lambda: service.job(job_id)["stage"] == "training", seconds=LONG, what="the race begins")
    with plain_worker(service) as victim:
        until(lambda: trains(service, victim, job_id), seconds=LONG, what="a worker helps")
        below = descendants_of(victim.pid)
        victim.kill()
        until(lambda: not any(map(is_alive, below)), what="its child ends with it")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_race_outlives_its_workers_and_ends_as_on_one(tmp_path: Path, uploads: Uploads) -> None:
    """Two plain workers help with a job that another leads, and one is killed in the middle of a training: the job
    ends at its first attempt, nothing of its trainings is left, and its report is that of one worker alone."""
    reports = []
    for spread in ("0", "none"):
        environment = {
            "FEDLAS_SPREAD_SECONDS": spread,
            "FEDLAS_HEARTBEAT_SECONDS": "0.5",
            "FEDLAS_CHECKPOINT_SECONDS": "0",
        }
        with serving(tmp_path / f"spread-{spread}", **environment) as service:
            model = service.inspected("models", uploads["digits.onnx"])
            dataset = service.inspected("datasets", uploads["digits.npz"])
            job_id = service.order(model, dataset, **ORDER)["id"]
            if spread == "none":
                reports.append(report_of(service, job_id))
                continue
            loses_a_helper(service, job_id)
            with plain_worker(service):
                reports.append(report_of(service, job_id))
            assert service.rows("SELECT id FROM pieces") == []
            assert service.rows("SELECT record_id FROM work WHERE kind = 'candidate'") == []
    assert reports[0] == reports[1]
