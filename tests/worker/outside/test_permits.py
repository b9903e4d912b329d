"""Permits over a real registry: what is claimed with one, who takes what, and what waits without one."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from service.registry.contract import ANY_DEVICE, GPU_ONLY, QUEUES
from service.registry.registry import Registry
from service.registry.repositories import Claim, Permit
from service.settings import ServiceSettings
from tests.helpers.processes import until
from tests.helpers.work import add_dataset, add_job, hurried, permits_of, reaper_of, state_of
from worker.outside.permits import Permits, Places
from worker.outside.recovery import Reaper
from worker.outside.supervisor import Supervisor
from worker.settings import WorkerSettings


class Recording(Supervisor):
    """A worker whose work is done at once, and whose claims are to be seen."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.done: list[str] = []

    def execute(self, claim: Claim, **_: Any) -> None:
        """It is done."""
        with self._registry.write() as unit:
            unit.work.finish(claim)
        self.done.append(claim.record_id)


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """A worker in a hurry, on the same registry."""
    return hurried(settings)


@pytest.fixture
def supervisor(registry: Registry, worker_settings: WorkerSettings) -> Recording:
    """A supervisor that does everything at once."""
    return Recording(worker_settings, registry, name="w")


def use(permits: Permits, queue: str, times: int = 1) -> list[str]:
    """Use so many permits; returns the records that they showed."""
    shown: list[str] = []
    for _ in range(times):
        permits.places.take(queue)
        permits.redeem(queue, lambda claim: shown.append(claim.record_id))
    return shown


def test_a_queue_takes_no_more_than_its_share_of_the_threads() -> None:
    """Slow webhooks leave threads to inspections; a worker of one queue gives it all, and one thread is a share."""
    places = Places(["inspect", "plan", "predict", "deliver"], threads=8)
    for _ in range(2):
        places.take("deliver")
    assert (places.free("deliver"), places.has_share("deliver"), places.free("inspect")) == (0, False, 2)
    for queue in ("inspect", "inspect", "plan", "plan", "predict"):
        places.take(queue)
    assert (places.free("predict"), places.full) == (1, False)
    places.take("predict")
    assert (places.free("predict"), places.full, places.in_use) == (0, True, 8)
    places.leave("plan")
    assert (places.free("plan"), places.free("inspect")) == (1, 0)
    assert Places(["deliver"], threads=4).free("deliver") == 4
    few = Places(["inspect", "deliver"], threads=1)
    few.take("deliver")
    assert (few.has_share("inspect"), few.free("inspect")) == (True, 0)


def test_a_permit_takes_what_is_next_and_too_many_take_nothing(registry: Registry, supervisor: Recording) -> None:
    """Each permit does one piece of work, in order; what was doubled, or left by the deleted, does nothing."""
    permits = permits_of(supervisor, registry)
    records = [add_dataset(registry) for _ in range(3)]
    assert use(permits, "inspect") == records[:1]
    assert use(permits, "inspect", times=5) == records[1:]
    assert (supervisor.done, permits.places.in_use) == (records, 0)


def test_a_worker_takes_only_what_it_serves(registry: Registry, supervisor: Recording) -> None:
    """Queue, memory and versions decide; a worker with a GPU does first what only it can do."""
    gpu, large = add_job(registry, queue=GPU_ONLY), add_job(registry, memory_bytes=2**40)
    fits = add_job(registry, memory_bytes=2**20)
    small = permits_of(supervisor, registry, queues=(ANY_DEVICE,))
    with registry.write() as unit:
        unit.workers.heartbeat(
            "large", machine="elsewhere", process="1 1", queues=[ANY_DEVICE], gpu=False, memory_bytes=2**60
        )
    reaper = Reaper(
        registry, hurried_with(supervisor, worker_memory_bytes=2**30), supervisor, small, take=lambda permit: None
    )
    reaper.sweep()
    assert small.limits_of(ANY_DEVICE).memory_bytes == 2**30
    assert use(small, ANY_DEVICE, times=2) == [fits]
    assert [state_of(registry, one) for one in (gpu, large)] == ["waiting"] * 2
    with registry.write() as unit:
        unit.workers.forget(["large"])
    reaper._register()
    with registry.write() as unit:
        other = add_work_that_requires(unit, "others")
    every = permits_of(supervisor, registry, queues=(GPU_ONLY, ANY_DEVICE))
    assert use(every, ANY_DEVICE, times=3) == [gpu, large]
    assert small.limits_of(ANY_DEVICE).memory_bytes is None
    assert state_of(registry, other) == "waiting"


def hurried_with(supervisor: Supervisor, **options: Any) -> WorkerSettings:
    """Its settings with some changed."""
    return supervisor._settings.model_copy(update=options)


def add_work_that_requires(unit: Any, versions: str) -> str:
    """A piece for workers of these versions."""
    record_id = "cnd_00000000000000000000000000"
    unit.work.open_all([record_id], queue=ANY_DEVICE, flow="job_x", requires=versions)
    return record_id


def test_work_is_found_without_a_permit(registry: Registry, worker_settings: WorkerSettings) -> None:
    """The reaper takes a permit for everything that waits and has a free thread, and no more."""
    supervisor = Recording(worker_settings, registry, name="w")
    permits = permits_of(supervisor, registry, threads=len(QUEUES))
    taken: list[Permit] = []
    reaper = Reaper(registry, worker_settings, supervisor, permits, take=taken.append)
    inspections, job = [add_dataset(registry) for _ in range(2)], add_job(registry)
    reaper.sweep()
    assert taken == [Permit(inspections[0], "inspect", "inspect"), Permit(job, "calibrate", ANY_DEVICE)]
    permits.places.take("inspect")
    taken.clear()
    reaper.sweep()
    assert [permit.record_id for permit in taken] == [job]


def test_permits_and_reaper_outlive_any_error(
    registry: Registry, worker_settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen error costs neither a thread nor its place nor the reaper, whose absence no check would notice."""
    supervisor = Recording(worker_settings, registry, name="w")
    monkeypatch.setattr("worker.outside.permits._PAUSE_S", 0.01)
    permits, reaper = permits_of(supervisor, registry), reaper_of(registry, worker_settings)
    with monkeypatch.context() as broken:
        broken.setattr(registry, "read", lambda: 1 / 0)
        assert use(permits, "inspect") == []
        reaper.sweep()
    record_id = add_dataset(registry)
    assert use(permits, "inspect") == [record_id]
    assert permits.places.in_use == 0


def test_nothing_is_taken_when_the_worker_stops(registry: Registry, worker_settings: WorkerSettings) -> None:
    """Permits that are still being given to threads leave the work where it is, and are waited for."""
    supervisor = Recording(worker_settings, registry, name="w")
    permits = permits_of(supervisor, registry)
    record_id = add_dataset(registry)
    permits.places.take("inspect")
    supervisor.stopping.set()
    last = threading.Thread(target=permits.redeem, args=["inspect", lambda claim: None])
    last.start()
    permits.places.await_idle(30)
    last.join()
    assert (permits.places.in_use, state_of(registry, record_id)) == (0, "waiting")


def test_a_used_permit_makes_the_worker_look_at_once(registry: Registry, worker_settings: WorkerSettings) -> None:
    """Work that is due is taken as soon as a thread is free, long before the next sweep."""
    settings = worker_settings.model_copy(update={"poll_seconds": 3600.0})
    supervisor = Recording(settings, registry, name="w")
    permits, taken = permits_of(supervisor, registry), list[Permit]()
    reaper = Reaper(registry, settings, supervisor, permits, take=taken.append)
    permits.on_used.append(reaper.look_soon)
    running = threading.Thread(target=reaper.run)
    running.start()
    try:
        first, second = (add_dataset(registry) for _ in range(2))
        assert use(permits, "inspect") == [first]
        until(lambda: [permit.record_id for permit in taken] == [second], what="it is taken")
    finally:
        supervisor.stopping.set()
        reaper.look_soon("inspect")
        running.join(60)
