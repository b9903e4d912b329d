"""Dead processes are started again, and a job whose process was killed runs again to exactly one result."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.helpers.service import Json, Service, children_of, descendants_of, is_alive, serving, until
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow

LONG = {"hyperparameters": {"epochs": 100}, "budget": {"minutes": 2, "candidates": 2}}
#: Only so that a stage is seen sooner; leases keep their default.
QUICK_BEATS = {"FEDLAS_HEARTBEAT_SECONDS": "0.5"}


@pytest.fixture
def training(own_service: Service, uploads: Uploads) -> Json:
    """A job of the test's own service that is training just now."""
    model = own_service.upload("models", uploads["digits.onnx"])
    dataset = own_service.upload("datasets", uploads["digits.npz"])
    job = own_service.order(model, dataset, **LONG)
    until(lambda: own_service.job(job["id"])["stage"] == "training", seconds=150, what="the job trains")
    return job


def runs(service: Service, job_id: str, *, attempt: int) -> bool:
    """True where this attempt is on its way."""
    job = service.job(job_id)
    return (job["attempts"], job["status"]) == (attempt, "running")


def ends_once(service: Service, job_id: str, *, attempts: int) -> None:
    """The job ends well after so many attempts, with exactly one calibrated model."""
    job = service.ended(job_id)
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", attempts, None), service.log
    models = service.get("/v1/models", limit=100)["data"]
    assert [model["job_id"] for model in models if model["origin"] == "calibrated"] == [job_id]
    assert [line["status"] for line in job["history"]].count("succeeded") == 1
    assert service.get(job["report_url"])["verdict"] == job["verdict"]


def test_one_job_survives_it_all(own_service: Service, training: Json) -> None:
    """SIGKILL of the training child, then of its worker, then Ctrl-C and a restart: one job, exactly one result."""
    before = [own_service.get(f"/v1/{kind}")["data"] for kind in ("models", "datasets")]
    answer = own_service.predict(training["model_id"], [[0.5] * 64])
    worker = own_service.pid("worker")
    (child,) = children_of(worker)
    os.kill(child, signal.SIGKILL)
    until(lambda: runs(own_service, training["id"], attempt=2), what="the job runs again")
    assert own_service.pid("worker") == worker

    children = until(lambda: descendants_of(worker), what="its second child")
    os.kill(worker, signal.SIGKILL)
    until(lambda: not any(map(is_alive, children)), what="the child ends with its worker")
    until(lambda: runs(own_service, training["id"], attempt=3), what="the job runs again")
    assert own_service.pid("worker") != worker

    own_service.stop()
    assert list((own_service.data_dir / "run").glob("*.pid")) == []
    assert own_service.left_over_files() == []
    query = "SELECT state, attempts FROM work WHERE record_id = :id"
    assert own_service.rows(query, id=training["id"]) == [("waiting", 2)]
    own_service.start()
    assert [own_service.get(f"/v1/{kind}")["data"] for kind in ("models", "datasets")] == before
    assert own_service.predict(training["model_id"], [[0.5] * 64]) == answer
    ends_once(own_service, training["id"], attempts=3)
    until(lambda: own_service.left_over_files() == [], what="nothing of the attempts is on the disk")


def test_child_that_always_dies(tmp_path: Path, uploads: Uploads) -> None:
    """A job whose process is lost again and again without getting further is given up, as our error."""
    with serving(tmp_path / "data", FEDLAS_MAX_ATTEMPTS="3", **QUICK_BEATS) as service:
        model = service.inspected("models", uploads["digits.onnx"])
        dataset = service.inspected("datasets", uploads["digits.npz"])
        job_id = service.tried().order(model, dataset, **LONG)["id"]
        worker = service.pid("worker")
        for attempt in (1, 2, 3):
            until(
                lambda at=attempt: service.job(job_id)["attempts"] == at and children_of(worker),  # type: ignore[misc]
                what=f"attempt {attempt}",
            )
            for child in children_of(worker):
                os.kill(child, signal.SIGKILL)
                until(lambda pid=child: not is_alive(pid), what="it is dead")  # type: ignore[misc]
        job = service.ended(job_id)
        assert (job["status"], job["attempts"], job["error"]["user_error"]) == ("failed", 4, False)
        assert (job["error"]["code"], "signal 9" in job["error"]["message"]) == ("poisoned", True)
        events = service.get(f"/v1/jobs/{job_id}/events", limit=100)["data"]
        assert [event["type"] for event in events].count("attempt") == 3


@pytest.mark.embedded
def test_killed_broker_and_api(own_service: Service, uploads: Uploads) -> None:
    """A broker or API that is killed is started again; what was created meanwhile is done."""
    model = own_service.inspected("models", uploads["digits.onnx"])
    broker = own_service.pid("broker")
    os.kill(broker, signal.SIGKILL)
    until(lambda: not is_alive(broker), what="the broker is dead")
    dataset = own_service.upload("datasets", uploads["digits.npz"])  # the bell may be out of order just now
    until(lambda: own_service.pid("broker") != broker, what="a new broker")
    ready = own_service.final(f"/v1/datasets/{dataset['id']}")
    assert ready["status"] == "ready", own_service.log
    api = own_service.pid("control")
    os.kill(api, signal.SIGKILL)
    until(lambda: own_service.pid("control") != api, what="a new API")
    until(own_service._is_ready, what="the new API answers")
    assert own_service.calibrated(model, dataset)["attempts"] == 1


@pytest.mark.embedded
def test_killed_serve_takes_everything_along(tmp_path: Path, uploads: Uploads) -> None:
    """After SIGKILL of `fedlas serve` no part runs on; started again at once, it does the open job."""
    with serving(tmp_path / "data", **QUICK_BEATS) as service:
        model = service.upload("models", uploads["digits.onnx"])
        dataset = service.upload("datasets", uploads["digits.npz"])
        job = service.order(model, dataset, hyperparameters={"epochs": 30})
        until(lambda: service.job(job["id"])["status"] == "running", seconds=150, what="the job runs")
        # The worker marks the job as running before its child for it is there.
        until(lambda: children_of(service.pid("worker")), seconds=150, what="the job's own process runs")
        below = descendants_of(service.process.pid)
        service.process.kill()
        service.process.wait()
        service.client.close()  # its connection leads nowhere, and a new service gets a new client
        service.start()
        until(lambda: not any(map(is_alive, below)), what="the old parts are gone")
        ended = service.ended(job["id"])
        assert (ended["status"], ended["attempts"] <= 2) == ("succeeded", True), service.log
        broker = service.pid("broker")
        again = service.inspected("datasets", uploads["digits.npz"])
        assert (again["status"], service.pid("broker")) == ("ready", broker), service.log
