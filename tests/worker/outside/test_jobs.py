"""Reports of a job's child become events: all of them, in order, once, soon, and no flood."""

from __future__ import annotations

from typing import Any

import pytest

from fedlas.contract.events import JOB_EVENT, EpochEvent, StageEvent
from service.registry import tables
from service.registry.presenters import event_json
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings, WorkerSettings
from tests.helpers.processes import until
from tests.helpers.work import add_job
from worker.outside.kinds import kind_of
from worker.outside.kinds.jobs import JobKind
from worker.outside.supervisor import LeaseRenewal

Json = dict[str, Any]
_OF = {"candidate": "focal lr=0.1", "number": 1, "fold": 1, "folds": 3}
_NOTICE = {"code": "unused_input", "message": "x", "evidence": {}, "severity": "warning"}
WARNING: Json = {"type": "warning", "data": _NOTICE}
TRAINING: Json = {"type": "training", "data": {**_OF, "method": "focal", "scope": "all", "candidates": 2, "epochs": 4}}
SCORE: Json = {"type": "score", "data": {**_OF, "nll": 0.5}}
CANDIDATE: Json = {
    "type": "candidate",
    "data": {
        "name": "focal lr=0.1", "method": "focal", "scope": "all", "status": "finished", "reason": "",
        "calibration": {"nll": 0.5}, "seconds": 2.5,
    },
}  # fmt: skip


def epoch(number: int, **of: Any) -> Json:
    """An epoch of a training."""
    of = {**_OF, "epochs": 4, "loss": 1.0 / number, "learning_rate": 0.1, "seconds": 0.1 * number, **of}
    return {"type": "epoch", "data": {**of, "epoch": number}}


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """A worker on the same registry."""
    return WorkerSettings(**settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"}))


@pytest.fixture
def job_id(registry: Registry) -> str:
    """A job whose model and dataset do not matter, and its open work."""
    return add_job(registry)


def attempt(registry: Registry, settings: WorkerSettings, job_id: str) -> JobKind[Any]:
    """An attempt at the job that has begun."""
    with registry.write() as unit:
        claim = unit.work.claim(job_id, worker="w", lease_seconds=60)
        assert claim is not None
        work = kind_of(claim)(registry, settings, claim)
        assert isinstance(work, JobKind)
        work.start(unit, tables.Dataset(sha256="0" * 64))
    return work


def beat(registry: Registry, work: JobKind[Any]) -> None:
    """One heartbeat."""
    with registry.write() as unit:
        assert work.heartbeat(unit) is False


def told(registry: Registry, job_id: str) -> list[tuple[str, Any]]:
    """The job's events but its status and progress, each readable as the contract says."""
    with registry.read() as unit:
        rows = unit.events.after(job_id, 0, limit=10_000)
        for row in rows:
            JOB_EVENT.validate_json(event_json(row))
        return [(row.type, row.data) for row in rows if row.type not in ("status", "progress")]


def test_what_is_told_is_an_event_in_order(registry: Registry, worker_settings: WorkerSettings, job_id: str) -> None:
    """Stages that pass within one heartbeat, warnings and the course of a race stand in the order of the telling."""
    work = attempt(registry, worker_settings, job_id)
    lines: list[Json] = [TRAINING, epoch(1), epoch(2), SCORE, CANDIDATE]
    work.note({"stage": "inspecting"})
    work.note({"stage": "evaluating", "progress": {"fraction": 0.1}})
    work.note({"event": WARNING})
    work.note({"stage": "training"})
    for line in lines:
        work.note({"event": line})
    work.note({"stage": "calibrating"})
    work.note({"stage": "exporting"})
    beat(registry, work)
    assert told(registry, job_id) == [
        ("stage", {"stage": "inspecting"}),
        ("stage", {"stage": "evaluating"}),
        ("warning", WARNING["data"]),
        ("stage", {"stage": "training"}),
        *((line["type"], line["data"]) for line in lines),
        ("stage", {"stage": "calibrating"}),
        ("stage", {"stage": "exporting"}),
    ]
    with registry.read() as unit:
        assert unit.jobs.get(job_id).stage == "exporting"


def test_what_an_earlier_attempt_told_is_once(registry: Registry, worker_settings: WorkerSettings, job_id: str) -> None:
    """An attempt that goes on tells again what was not saved, and it is no event again; its own stages are."""
    first = attempt(registry, worker_settings, job_id)
    for line in (TRAINING, epoch(1), epoch(2)):
        first.note({"event": line})
    beat(registry, first)
    with registry.write() as unit:
        first.handed_back(unit, "its worker was stopped")
    again = attempt(registry, worker_settings, job_id)
    again.note({"stage": "inspecting"})
    again.note({"stage": "training"})
    for line in (TRAINING, epoch(2), epoch(3), epoch(1, fold=2), SCORE):
        again.note({"event": line})
    beat(registry, again)
    kinds = [kind for kind, _ in told(registry, job_id)]
    assert kinds == ["stage", "training", "epoch", "epoch", "attempt", "stage", "epoch", "epoch", "score"]


def test_a_flood_is_dropped(
    registry: Registry, worker_settings: WorkerSettings, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each type has a limit of events; one that floods drowns no other."""
    monkeypatch.setattr(EpochEvent, "MAX_PER_JOB", 50)
    monkeypatch.setattr(StageEvent, "MAX_PER_JOB", 3)
    work = attempt(registry, worker_settings, job_id)
    for number in range(1, 200):
        work.note({"event": epoch(number)})
        work.note({"stage": "training" if number % 2 else "calibrating"})
    work.note({"event": epoch(1, fold=2, candidate="x" * 1000)})
    work.note({"event": CANDIDATE})
    beat(registry, work)
    kinds = [kind for kind, _ in told(registry, job_id)]
    assert {kind: kinds.count(kind) for kind in kinds} == {"stage": 4, "epoch": 50, "candidate": 1}


def test_news_do_not_wait_for_a_heartbeat(registry: Registry, worker_settings: WorkerSettings, job_id: str) -> None:
    """News of a child is an event though the next heartbeat is an hour away."""
    work = attempt(registry, worker_settings, job_id)
    with LeaseRenewal(registry, work, lease_seconds=7200, every_seconds=3600):
        for number in (1, 2):
            work.note({"event": epoch(number)})
            until(
                lambda known=number: [kind for kind, _ in told(registry, job_id)].count("epoch") == known,  # type: ignore[misc]
                what=f"epoch {number} is an event",
            )
