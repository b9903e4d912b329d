"""Workers over a real registry and real children: who does what, what is released, and what is given up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.registry import tables
from service.registry.errors import Conflict, LeaseLost
from service.registry.presenters import dataset_record, job_record
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings, WorkerSettings
from tests.helpers.service import until
from tests.helpers.work import add_dataset, add_job, add_worker, execute, hurried, reaper_of, state_of
from worker.outside.kinds import kind_of
from worker.outside.kinds.base import KILLED_FOR_MEMORY
from worker.outside.supervisor import Cancelled, LeaseRenewal, Supervisor
from worker.sandbox.process import ChildOutcome, machine, process_mark
from worker.sandbox.protocol import ChildError

Json = dict[str, Any]


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """A worker in a hurry, on the same registry."""
    return hurried(settings)


def job(registry: Registry, job_id: str) -> tables.Job:
    """The job's row."""
    with registry.read() as unit:
        return unit.jobs.get(job_id)


def claimed_by(registry: Registry, record_id: str, worker: str, *, lease: float = 60) -> Any:
    """Claim for some worker."""
    with registry.write() as unit:
        claim = unit.work.claim(record_id, worker=worker, lease_seconds=lease)
    assert claim is not None
    return claim


def test_work_of_a_dead_process_here_is_released_at_once(registry: Registry, worker_settings: WorkerSettings) -> None:
    """A worker that was killed on this machine loses its work long before its lease ends; one elsewhere does not."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    jobs = {name: add_job(registry, status="running") for name in ("here", "elsewhere")}
    with registry.write() as unit:
        for name, place in (("here", machine()), ("elsewhere", "another machine")):
            mark = process_mark(child.pid)
            unit.workers.heartbeat(name, machine=place, process=mark, queues=[], gpu=False, memory_bytes=1)
    for name, job_id in jobs.items():
        claimed_by(registry, job_id, name)
    reaper = reaper_of(registry, worker_settings)
    reaper.sweep()
    assert [state_of(registry, one) for one in jobs.values()] == ["claimed", "claimed"]
    child.kill()
    child.communicate()
    reaper.sweep()
    assert [state_of(registry, one) for one in jobs.values()] == ["waiting", "claimed"]
    row = job(registry, jobs["here"])
    assert (row.status, [line["status"] for line in row.history]) == ("queued", ["queued"])
    with registry.read() as unit:
        assert [(line.type, line.data) for line in unit.events.after(row.id, 0, limit=10)] == [
            ("attempt", {"reason": "its worker died"}),
            ("status", {"status": "queued"}),
        ]
        assert [found.name for found in unit.workers.on_machine(machine())] == ["reaper"]


def test_after_an_outage_the_living_get_time_to_say_so(registry: Registry, worker_settings: WorkerSettings) -> None:
    """A watch that could not look for longer than a lease does not judge leases before another one has passed."""
    job_id = add_job(registry, status="running")
    claimed_by(registry, job_id, "w", lease=-1)
    reaper = reaper_of(registry, worker_settings)
    reaper._last_sweep -= 2 * worker_settings.lease_seconds
    reaper.sweep()
    assert state_of(registry, job_id) == "claimed"
    reaper._judges_from = time.monotonic()
    reaper.sweep()
    assert state_of(registry, job_id) == "waiting"


def test_a_cancelled_job_of_a_dead_worker_needs_no_place(registry: Registry, worker_settings: WorkerSettings) -> None:
    """A job whose worker died while it was being cancelled ends, although every place for training may be taken."""
    job_id = add_job(registry, status="cancelling")
    claimed_by(registry, job_id, "w", lease=-1)
    reaper_of(registry, worker_settings).sweep()
    row = job(registry, job_id)
    assert (row.status, state_of(registry, job_id)) == ("cancelled", "done")
    assert row.finished_at is not None


def test_a_lease_is_renewed_and_its_loss_is_noticed(registry: Registry, worker_settings: WorkerSettings) -> None:
    """A lease far shorter than the work is kept; a cancellation, and a claim by somebody else, are heard."""

    def hears(happens: Callable[[str], None]) -> Exception:
        job_id = add_job(registry, status="running")
        claim = claimed_by(registry, job_id, "w", lease=2.0)
        work = kind_of(claim)(registry, worker_settings, claim)
        with LeaseRenewal(registry, work, lease_seconds=2.0, every_seconds=0.1) as renewal:
            time.sleep(2.5)
            with registry.read() as unit:
                assert unit.work.of(job_id).lease_expires_at > unit.now()
            renewal.check()
            happens(job_id)
            with pytest.raises((Cancelled, LeaseLost)) as caught:
                until(lambda: renewal.check(), what="it is heard")
        return caught.value

    def cancel(job_id: str) -> None:
        with registry.write() as unit:
            unit.jobs.change_status(unit.jobs.get(job_id), "cancelling")

    def take_over(job_id: str) -> None:
        with registry.write() as unit:
            unit.work.release_held_by(["w"], "its worker died")

    assert isinstance(hears(cancel), Cancelled)
    assert isinstance(hears(take_over), LeaseLost)


def test_what_is_lost_without_getting_further_is_given_up(
    registry: Registry, worker_settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inspection whose process is killed each time says so while it waits, and is rejected as poisoned at last."""
    kills = iter(range(10))
    monkeypatch.setattr("worker.outside.supervisor.oom_kills", lambda: next(kills))
    monkeypatch.setattr("worker.sandbox.process.run", lambda *_, **__: ChildOutcome(died="signal 9"))
    supervisor = Supervisor(worker_settings.model_copy(update={"max_attempts": 2}), registry, name="w")
    record_id = add_dataset(registry)
    add_worker(registry, "w", "inspect")
    for _ in range(2):
        with registry.write() as unit:
            unit.work.of(record_id).not_before = unit.now()
        execute(supervisor, registry, record_id)
        assert state_of(registry, record_id) == "waiting"
        with registry.read() as unit:
            waits = dataset_record(unit, unit.datasets.get(record_id)).waiting_for
            assert waits == f"its process ended: {KILLED_FOR_MEMORY}; it is tried again"
    with registry.write() as unit:
        unit.work.of(record_id).not_before = unit.now()
    execute(supervisor, registry, record_id)
    with registry.read() as unit:
        row = unit.datasets.get(record_id)
        assert (row.status, unit.work.of(record_id).state) == ("rejected", "done")
    assert row.error is not None
    assert (row.error["code"], row.error["user_error"]) == ("poisoned", False)
    assert f"its process ended: {KILLED_FOR_MEMORY}" in row.error["message"]


def test_a_worker_that_can_open_nothing_says_so_or_leaves_it_to_others(
    registry: Registry, worker_settings: WorkerSettings
) -> None:
    """Alone it claims work, whose sender is told why; beside a worker that can it claims none, and nobody hears."""
    record_id = add_dataset(registry)
    reaper = reaper_of(registry, worker_settings, name="unfit")
    reaper._supervisor.unfit = "it cannot load PyTorch"
    reaper._register()
    assert [one.record_id for one in reaper._permits.due("inspect", limit=9)] == [record_id]
    with registry.read() as unit:
        assert unit.workers.obstacle("inspect") == "it cannot load PyTorch"
        assert unit.workers.obstacle("predict") is None
        assert dataset_record(unit, unit.datasets.get(record_id)).waiting_for == "it cannot load PyTorch"
    add_worker(registry, "fit", "inspect")
    reaper._register()
    assert reaper._permits.due("inspect", limit=9) == []
    with registry.read() as unit:
        assert unit.workers.obstacle("inspect") is None
    reaper._supervisor.unfit = None
    reaper._register()
    assert [one.record_id for one in reaper._permits.due("inspect", limit=9)] == [record_id]


def test_a_card_that_fails_is_a_lost_process(
    registry: Registry,
    worker_settings: WorkerSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The work is tried again, with the card's error as the reason, and ends as poisoned; no child writes the log."""
    failed = ChildError(code="card_failed", message="its card failed: \x1b[2JCUDA error: illegal", user_error=False)
    given: list[str | None] = []

    def run(*_: Any, devices: str | None, **__: Any) -> ChildOutcome:
        given.append(devices)
        return ChildOutcome(error=failed)

    monkeypatch.setattr("worker.sandbox.process.run", run)
    supervisor = Supervisor(worker_settings.model_copy(update={"max_attempts": 2}), registry, name="w")
    record_id = add_dataset(registry)
    for _ in range(3):
        with registry.write() as unit:
            unit.work.of(record_id).not_before = unit.now()
        supervisor.execute(claimed_by(registry, record_id, "w"), devices="GPU-1")
    with registry.read() as unit:
        row = unit.datasets.get(record_id)
        assert unit.work.of(record_id).losses == ["its process ended: its card failed: [2JCUDA error: illegal"] * 2
    assert row.error is not None
    assert (row.error["code"], row.error["user_error"], given) == ("poisoned", False, ["GPU-1"] * 2)
    assert "CUDA error: illegal" in row.error["message"]
    assert "was lost (its process ended: its card failed: " in caplog.text
    assert "\x1b" not in caplog.text


def test_an_inspection_is_done_by_whoever_comes(registry: Registry, worker_settings: WorkerSettings) -> None:
    """The road itself: two workers, one upload, a real child, one prepared copy."""
    record_id = add_dataset(registry, b"x,label\n" + b"".join(b"%d.5,%d\n" % (i, i % 2) for i in range(200)))
    supervisors = [Supervisor(worker_settings, registry, name=name) for name in "ab"]
    threads = [threading.Thread(target=execute, args=[one, registry, record_id]) for one in supervisors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with registry.read() as unit:
        row = unit.datasets.get(record_id)
        assert (row.status, unit.work.of(record_id).attempts) == ("ready", 1), row.error
    assert registry.artifacts.path(str(row.prepared_sha256)).is_file()
    assert [path for path in Path(worker_settings.work_dir).rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("end", ["succeeded", "cancelled"])
def test_who_comes_too_late_begins_nothing(registry: Registry, worker_settings: WorkerSettings, end: str) -> None:
    """A worker that slept between its claim and its beginning does not open a job again that another has ended."""
    job_id = add_job(registry)
    slept = kind_of(late := claimed_by(registry, job_id, "slept"))(registry, worker_settings, late)
    with registry.write() as unit:
        unit.work.release_held_by(["slept"], "its worker died")
    other = claimed_by(registry, job_id, "other")
    with registry.write() as unit:
        unit.work.finish(other)
        unit.jobs.change_status(unit.jobs.get(job_id), end)
    with pytest.raises(LeaseLost):
        slept.begin()
    assert job(registry, job_id).status == end
    with pytest.raises(Conflict), registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(job_id), "running")


def test_a_cancellation_needs_no_living_worker(registry: Registry) -> None:
    """Work under an expired lease is withdrawn by any claim for it; under a valid one it is not."""
    ended, living = add_job(registry), add_job(registry)
    claimed_by(registry, ended, "w", lease=-1)
    claimed_by(registry, living, "w")
    with registry.write() as unit:
        assert (unit.work.withdraw(ended), unit.work.withdraw(living)) == (True, False)


@pytest.mark.parametrize(
    "event",
    [
        {"stage": "foo"},
        {"progress": "abc"},
        {"progress": {"fraction": "x"}},
        {"progress": {"fraction": float("inf")}},
        {"progress": {"candidate": "\ud800"}},
        {"event": {"type": "candidate", "data": {"name": "\ud800"}}},
        {"event": {"type": "candidate", "data": {"name": "x" * 20_000}}},
        {"event": {"type": "candidate", "data": {"nll": float("nan")}}},
        {"event": {"type": "status", "data": {"status": "succeeded"}}},
        {"event": "candidate"},
    ],
    ids=lambda event: str(event)[:40],
)
def test_a_hostile_child_writes_nothing_that_breaks_a_record(
    registry: Registry, worker_settings: WorkerSettings, event: Json
) -> None:
    """A child's words are taken only as far as the job's record and events can carry them."""
    job_id = add_job(registry, status="running")
    claim = claimed_by(registry, job_id, "w")
    work = kind_of(claim)(registry, worker_settings, claim)
    work.note({"stage": "training", "progress": {"fraction": 0.25}})
    work.note(event)
    with registry.write() as unit:
        assert work.heartbeat(unit) is False
    with registry.read() as unit:
        record = job_record(unit, unit.jobs.get(job_id), unit.work.of(job_id))
        assert [line.type for line in unit.events.after(job_id, 0, limit=10)] == ["stage", "progress"]
    assert (record.stage, record.progress.fraction) == ("training", 0.25)
    record.model_dump_json()


def test_progress_is_an_event_all_the_time(
    registry: Registry, worker_settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growth by a percent is an event at once; where nothing grows there is one every few seconds all the same."""
    now = [1000.0]
    monkeypatch.setattr("worker.outside.kinds.jobs.time.monotonic", lambda: now[0])
    job_id = add_job(registry, status="running")
    claim = claimed_by(registry, job_id, "w")
    work = kind_of(claim)(registry, worker_settings, claim)
    work.note({"stage": "training", "progress": {"fraction": 0.25}})
    written = []
    for second in range(0, 40, 2):
        now[0] = 1000.0 + second
        if second == 20:
            work.note({"progress": {"fraction": 0.27}})
        with registry.write() as unit:
            work.heartbeat(unit)
        with registry.read() as unit:
            events = [one for one in unit.events.after(job_id, 0, limit=100) if one.type == "progress"]
        if len(events) > len(written):
            written.append(second)
    assert written == [0, 6, 12, 18, 20, 26, 32, 38]
