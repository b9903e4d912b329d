"""Permits over a real registry and broker: who takes what, what waits without one, and missing ones, sent once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.registry.queues import ANY_DEVICE, GPU_ONLY, QUEUES, task_name
from service.registry.registry import Registry
from service.registry.repositories import Claim, Permit
from service.registry.settings import ServiceSettings, WorkerSettings
from tests.helpers.processes import until
from tests.helpers.servers import Valkey, running
from tests.helpers.work import add_dataset, add_job, hurried, permits_of, reaper_of, state_of
from worker.outside import cards, permits
from worker.outside.cards import CARD_TOO_SMALL, Card, Cards
from worker.outside.permits import Broker, Permits, PermitWatch, Places
from worker.outside.recovery import Reaper
from worker.outside.supervisor import Supervisor


class Recording(Supervisor):
    """A worker whose work is done at once, and whose claims are to be seen."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.done: list[str] = []
        self.devices: list[str | None] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def execute(self, claim: Claim, devices: str | None = None, **_: Any) -> None:
        """Count the claim as done."""
        self.devices.append(devices)
        self.go_on.wait(60)
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
    assert places.free("predict") == 1
    places.take("predict")
    assert places.free("predict") == 0
    places.leave("plan")
    assert (places.free("plan"), places.free("inspect")) == (1, 0)
    assert Places(["deliver"], threads=4).free("deliver") == 4
    (few := Places(["inspect", "deliver"], threads=1)).take("deliver")
    assert (few.has_share("inspect"), few.free("inspect")) == (True, 0)


def test_no_more_is_opened_at_a_time_than_fits_into_memory() -> None:
    """Inspections and dry runs share what memory allows, and webhooks do not wait for them."""
    places = Places(["inspect", "plan", "predict", "deliver"], threads=32)
    places.most_loading = 3
    assert (places.free("inspect"), places.free("deliver")) == (3, 8)
    places.take("inspect")
    places.take("plan")
    assert (places.free("inspect"), places.free("plan"), places.has_share("plan")) == (1, 1, True)
    places.take("inspect")
    assert (places.free("plan"), places.has_share("inspect"), places.free("deliver")) == (0, False, 8)
    places.leave("plan")
    assert places.free("plan") == 1


def test_trainings_have_one_share_on_whichever_device() -> None:
    """A worker with two cards and two threads trains two jobs at once, from one of its queues or from both."""
    places = Places([GPU_ONLY, ANY_DEVICE], threads=2)
    assert (places.free(GPU_ONLY), places.free(ANY_DEVICE)) == (2, 2)
    places.take(ANY_DEVICE)
    assert (places.free(GPU_ONLY), places.free(ANY_DEVICE)) == (1, 1)
    places.take(GPU_ONLY)
    assert not places.has_share(ANY_DEVICE)
    assert Places(QUEUES, threads=6).free(ANY_DEVICE) == 1


def test_a_permit_takes_what_is_next_and_too_many_take_nothing(registry: Registry, supervisor: Recording) -> None:
    """Each permit does one piece of work, in order; what was doubled, or left by the deleted, does nothing."""
    permits = permits_of(supervisor, registry)
    records = [add_dataset(registry) for _ in range(3)]
    assert use(permits, "inspect") == records[:1]
    assert use(permits, "inspect", times=5) == records[1:]
    assert (supervisor.done, permits.places.await_idle(0)) == (records, True)


def test_a_worker_takes_only_what_it_serves(registry: Registry, supervisor: Recording) -> None:
    """Queue, memory and versions decide; a worker with a GPU does first what only it can do."""
    gpu, large = add_job(registry, queue=GPU_ONLY), add_job(registry, memory_bytes=2**40)
    fits = add_job(registry, memory_bytes=2**20)
    small = permits_of(supervisor, registry, queues=(ANY_DEVICE,))
    with registry.write() as unit:
        where = {"machine": "elsewhere", "process": "1 1", "queues": [ANY_DEVICE]}
        unit.workers.heartbeat("large", gpu=False, memory_bytes=2**60, **where)
    settings = hurried_with(supervisor, worker_memory_bytes=2**30)
    reaper = Reaper(registry, settings, supervisor, small, take=lambda permit: None)
    reaper.sweep()
    assert small.max_memory == {ANY_DEVICE: 2**30}
    assert use(small, ANY_DEVICE, times=2) == [fits]
    assert [state_of(registry, one) for one in (gpu, large)] == ["waiting"] * 2
    with registry.write() as unit:
        unit.workers.forget(["large"])
    reaper._register()
    assert use(permits_of(supervisor, registry, queues=(GPU_ONLY, ANY_DEVICE)), ANY_DEVICE, times=3) == [gpu, large]
    assert small.max_memory == {}


def hurried_with(supervisor: Supervisor, **options: Any) -> WorkerSettings:
    """The worker's settings with some changed."""
    return supervisor._settings.model_copy(update=options)


SMALL = Card("MIG-1", "1g.5gb", 5 * 10**9, "GPU-1")
LARGE = Card("GPU-2", "A100", 40 * 1024**3, "GPU-2")


@pytest.fixture
def with_cards(registry: Registry, supervisor: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Permits:
    """Permits of a worker with two cards, which `nvidia-smi` is said to list."""
    monkeypatch.setattr(cards, "visible_cards", lambda: [SMALL, LARGE])
    monkeypatch.setattr("worker.outside.permits._PAUSE_S", 0.01)
    found = permits_of(supervisor, registry)
    found.cards = Cards(tmp_path / "cards", [SMALL, LARGE])
    return found


def test_a_calibration_computes_on_a_card_of_its_own(
    registry: Registry, supervisor: Recording, with_cards: Permits
) -> None:
    """Two at once are on two cards, a third waits in the queue; other work, and workers without cards, have none."""
    jobs = [add_job(registry, queue=queue) for queue in (ANY_DEVICE, GPU_ONLY, ANY_DEVICE)]
    add_dataset(registry)
    supervisor.go_on.clear()
    threads = [threading.Thread(target=use, args=(with_cards, ANY_DEVICE)) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(supervisor.devices) == 2, what="both run")
    assert {*supervisor.devices} == {SMALL.uuid, LARGE.uuid}
    assert use(with_cards, ANY_DEVICE) == []
    assert [state_of(registry, one) for one in jobs].count("waiting") == 1
    supervisor.go_on.set()
    for thread in threads:
        thread.join(60)
    use(with_cards, ANY_DEVICE, times=2)
    use(with_cards, "inspect")
    assert [state_of(registry, one) for one in jobs] == ["done"] * 3
    assert supervisor.devices[2] in (SMALL.uuid, LARGE.uuid)
    add_job(registry)
    use(permits_of(supervisor, registry), ANY_DEVICE)
    assert supervisor.devices[3:] == ["", ""]


def test_a_job_that_no_card_holds_leaves_the_cards_to_others(
    registry: Registry, supervisor: Recording, with_cards: Permits, tmp_path: Path
) -> None:
    """The child of such a job sees no GPU, by whichever worker it is done, and while it runs every card is free."""
    for of_worker in (with_cards, permits_of(supervisor, registry)):
        job_id = add_job(registry)
        with registry.write() as unit:
            unit.jobs.add_warning(unit.jobs.get(job_id), {"code": CARD_TOO_SMALL, "message": "x"})
        supervisor.go_on.clear()
        thread = threading.Thread(target=use, args=(of_worker, ANY_DEVICE))
        thread.start()
        until(lambda: supervisor.devices, what="it runs")
        others = Cards(tmp_path / "cards", [SMALL, LARGE])
        with others.take() as first, others.take() as second:
            assert (first, second) == (SMALL, LARGE)
        supervisor.go_on.set()
        thread.join(60)
        assert supervisor.devices == [""]
        supervisor.devices.clear()


def test_a_card_counts_as_the_memory_of_its_worker(registry: Registry, with_cards: Permits) -> None:
    """The smallest card says what fits, where it has less than the machine; unknown memory says nothing."""
    supervisor = with_cards._supervisor
    for memory, known, counted in (
        (2**40, [SMALL, LARGE], SMALL.memory_bytes),
        (2**30, [SMALL, LARGE], 2**30),
        (2**40, [Card("0", "a GPU", 0, "0")], 2**40),
        (2**40, [], 2**40),
    ):
        with_cards.cards.known = known
        settings = hurried_with(supervisor, worker_memory_bytes=memory)
        Reaper(registry, settings, supervisor, with_cards, take=lambda permit: None)._register()
        with registry.write() as unit:
            assert [row.memory_bytes for row in unit.workers.known] == [counted]
            unit.workers.forget(["w"])


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
    assert permits.places.await_idle(0)


def test_nothing_is_taken_when_the_worker_stops(registry: Registry, worker_settings: WorkerSettings) -> None:
    """Permits that are still being given to threads leave the work where it is, and are waited for."""
    supervisor = Recording(worker_settings, registry, name="w")
    permits, record_id = permits_of(supervisor, registry), add_dataset(registry)
    permits.places.take("inspect")
    supervisor.stopping.set()
    (last := threading.Thread(target=permits.redeem, args=["inspect", lambda claim: None])).start()
    assert permits.places.await_idle(30)
    last.join()
    assert state_of(registry, record_id) == "waiting"


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


QUEUE, OTHER = "inspect", "plan"


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """One broker; each test takes a database of its own."""
    with running(Valkey) as server:
        yield server


@pytest.fixture
def client(valkey: Valkey, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of this test's database, which is empty."""
    with valkey.client(sum(request.node.name.encode()) % 9000) as client:
        client.flushdb()
        yield client


@pytest.fixture
def broker(valkey: Valkey, client: Any) -> Iterator[Broker]:
    """The client's database as a worker sees it."""
    opened = Broker(valkey.url(client.connection_pool.connection_kwargs["db"]))
    yield opened
    opened.close()


@pytest.fixture
def watch(
    broker: Broker, registry: Registry, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> PermitWatch:
    """A watch whose turn it is as often as a test asks."""
    monkeypatch.setattr(permits, "_DUE_FOR_S", 0.0)
    supervisor = Supervisor(hurried(settings), registry, name="w")
    return PermitWatch(broker, permits_of(supervisor, registry, queues=(QUEUE, OTHER)), every_seconds=0.001)


def check(watch: PermitWatch, client: Any) -> int:
    """Look once, as the only worker; returns how many permits wait then."""
    client.delete(f"fedlas.watch.{QUEUE}", f"fedlas.watch.{OTHER}")
    watch.check()
    return int(client.llen(QUEUE))


def test_what_the_broker_has_lost_is_sent_again_once(watch: PermitWatch, registry: Registry, client: Any) -> None:
    """After FLUSHALL every permit is back with the next look, in order of turns; a second look doubles none of them."""
    records = [add_dataset(registry) for _ in range(12)]
    assert check(watch, client) == 12
    assert check(watch, client) == 12
    for _ in range(5):
        client.lpop(QUEUE)
    assert check(watch, client) == 12
    client.flushall()
    assert check(watch, client) == 12
    oldest = client.lindex(QUEUE, -1).decode()
    assert (task_name("inspect") in oldest, records[0] in oldest) == (True, True)
    assert client.llen(OTHER) == 0


def test_what_is_being_given_to_a_worker_counts_as_held(watch: PermitWatch, registry: Registry, client: Any) -> None:
    """A permit that a worker has taken and not acknowledged yet is not missing."""
    for _ in range(3):
        add_dataset(registry)
    client.hset("unacked", "1", '[{}, "", "inspect"]')
    client.hset("unacked", "2", '[{}, "", "plan"]')
    assert check(watch, client) == 2


def test_one_worker_looks_at_a_time(watch: PermitWatch, broker: Broker, registry: Registry, client: Any) -> None:
    """Another one's turn of a queue is respected, and ends by itself where that worker has died."""
    add_dataset(registry)
    assert broker.take_turns([QUEUE], seconds=3) == [QUEUE]
    assert broker.take_turns([QUEUE, OTHER], seconds=60) == [OTHER]
    watch.check()
    assert client.pttl(f"fedlas.watch.{QUEUE}") <= 3000
    assert check(watch, client) == 1


def test_permits_that_nobody_can_use_are_sent_ever_more_rarely(
    watch: PermitWatch, registry: Registry, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permits for work of a busy, larger worker vanish: a few are sent, until one is held or used."""
    now = [1000.0]
    monkeypatch.setattr("worker.outside.permits.time.monotonic", lambda: now[0])
    watch._every_seconds = 1.0
    add_dataset(registry)
    sent = []
    for second in range(120):
        now[0] = 1000.0 + second
        if check(watch, client):
            sent.append(second)
            client.delete(QUEUE)
    assert sent[:6] == [0, 1, 3, 7, 15, 31]
    assert all(30 <= later - earlier <= 31 for earlier, later in pairwise(sent[5:]))
    now[0] += 30
    assert [check(watch, client), check(watch, client)] == [1, 1]
    client.delete(QUEUE)
    assert check(watch, client) == 1


@pytest.mark.slow
def test_ten_thousand_are_back_with_one_look(watch: PermitWatch, registry: Registry, client: Any) -> None:
    """A long queue is sent in pipelines, and the look after that sends nothing."""
    number = 10_000
    with registry.write() as unit:
        unit.work.open_all([f"shd_{place:026d}" for place in range(number)], queue=QUEUE, flow="bat_x")
    assert check(watch, client) == number
    assert check(watch, client) == number
