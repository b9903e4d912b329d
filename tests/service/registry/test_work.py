"""Claims on a real SQLite file: exclusive, fenced, leased, handed back, found when overdue; and what waiting says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import event, update

from service.registry import tables
from service.registry.errors import LeaseLost
from service.registry.presenters import batch_record, dataset_record, job_record
from service.registry.queues import ANY_DEVICE, GPU_ONLY
from service.registry.registry import Registry
from service.registry.repositories import Claim, Permit
from service.registry.repositories.work import SILENT
from service.registry.repositories.workers import SILENT_S
from service.registry.settings import ServiceSettings
from service.registry.tables import Work, new_id, now
from tests.helpers import ROOT, backends
from tests.helpers.work import add_dataset, add_job, add_worker


def opened(registry: Registry, kind: str = "job", count: int = 1) -> list[str]:
    """Open work for new records."""
    ids = [new_id(kind) for _ in range(count)]
    with registry.write() as unit:
        for record_id in ids:
            unit.work.open(record_id)
    return ids


def claim(registry: Registry, record_id: str, *, lease: float = 60) -> Claim | None:
    """Claim in a transaction of its own."""
    with registry.write() as unit:
        return unit.work.claim(record_id, worker="w", lease_seconds=lease)


def must_claim(registry: Registry, record_id: str, *, lease: float = 60) -> Claim:
    """Claim work without a holder."""
    claimed = claim(registry, record_id, lease=lease)
    assert claimed is not None
    return claimed


def shift(registry: Registry, record_id: str, **ages: float) -> None:
    """Move times of the work into the past by so many seconds, instead of waiting."""
    values = {name: now() - timedelta(seconds=seconds) for name, seconds in ages.items()}
    with registry.write() as unit:
        unit.session.execute(update(Work).where(Work.record_id == record_id).values(**values))


def test_threads_never_share_a_claim(registry: Registry) -> None:
    """Eight threads claim the same forty pieces of work, and each piece is given to exactly one."""
    ids = opened(registry, count=40)
    start = Barrier(8)

    def take(_: int) -> list[str]:
        start.wait()
        return [record_id for record_id in ids if claim(registry, record_id) is not None]

    with ThreadPoolExecutor(8) as pool:
        taken = [record_id for found in pool.map(take, range(8)) for record_id in found]
    assert sorted(taken) == sorted(ids)


def test_processes_never_share_a_claim(registry: Registry, settings: ServiceSettings) -> None:
    """Processes that claim, each with connections of its own, never share a piece of work."""
    ids = opened(registry, count=30)
    code = (
        "import sys\n"
        "from service.registry.registry import Registry\n"
        "from service.registry.settings import RegistrySettings\n"
        "registry = Registry.open(RegistrySettings())\n"
        "sys.stdin.readline()\n"
        "for record_id in sys.argv[1:]:\n"
        "    with registry.write() as unit:\n"
        "        if unit.work.claim(record_id, worker='p', lease_seconds=60): print(record_id)\n"
    )
    place = settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"})
    environment = {**os.environ, **backends.environment(place)}
    command = [sys.executable, "-c", code, *ids]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    taken = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(taken) == sorted(ids)


def test_concurrent_counting_loses_nothing(registry: Registry) -> None:
    """Read-then-write transactions are serialised: 8 threads that add one 25 times come to 200."""
    (record_id,) = opened(registry)

    def add(_: int) -> None:
        for _ in range(25):
            with registry.write() as unit:
                work = unit.work.of(record_id)
                work.attempts = work.attempts + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    with registry.read() as unit:
        assert unit.work.of(record_id).attempts == 200


def test_a_living_lease_is_respected_and_a_dead_one_is_not(registry: Registry) -> None:
    """Held work cannot be claimed until its lease has ended; then attempts and token grow."""
    (record_id,) = opened(registry)
    first = must_claim(registry, record_id)
    assert (first.attempts, first.token, first.kind) == (1, 1, "calibrate")
    assert claim(registry, record_id) is None
    shift(registry, record_id, lease_expires_at=1)
    second = must_claim(registry, record_id)
    assert (second.attempts, second.token) == (2, 2)


def test_renewing_keeps_the_lease(registry: Registry) -> None:
    """A heartbeat moves the end of the lease, so that no other worker gets the work."""
    (record_id,) = opened(registry)
    held = must_claim(registry, record_id, lease=60)
    shift(registry, record_id, lease_expires_at=-0.001)
    with registry.write() as unit:
        unit.work.renew(held, lease_seconds=60)
    assert claim(registry, record_id) is None


@pytest.mark.parametrize(
    "write",
    [
        lambda unit, old: unit.work.finish(old),
        lambda unit, old: unit.work.renew(old, lease_seconds=60),
        lambda unit, old: unit.work.release(old),
    ],
    ids=["finish", "renew", "hand_back"],
)
def test_an_old_token_writes_nothing(registry: Registry, write: Callable[..., None]) -> None:
    """A holder without the lease can do nothing, and everything else in that transaction is rolled back."""
    record_id, other = opened(registry, count=2)
    old = must_claim(registry, record_id)
    shift(registry, record_id, lease_expires_at=1)
    new = must_claim(registry, record_id)

    def write_late() -> None:
        with registry.write() as unit:
            unit.work.withdraw(other)
            write(unit, old)

    with pytest.raises(LeaseLost):
        write_late()
    with registry.write() as unit:
        assert unit.work.of(other).state == "waiting"
        assert (unit.work.of(record_id).state, unit.work.of(record_id).token) == ("claimed", new.token)
        unit.work.finish(new)
    with pytest.raises(LeaseLost), registry.write() as unit:
        unit.work.finish(new)


def test_handing_back_is_no_attempt_and_a_loss_is_one(registry: Registry) -> None:
    """Work handed back can be claimed at once as if nothing had been; the first loss is forgiven by a claim at once."""
    (record_id,) = opened(registry)
    held = must_claim(registry, record_id)
    with registry.write() as unit:
        unit.work.release(held)
    held = must_claim(registry, record_id)
    assert (held.attempts, held.losses) == (1, [])
    with registry.write() as unit:
        unit.work.retry(held, "signal 9")
    held = must_claim(registry, record_id)
    assert (held.attempts, held.losses) == (2, ["signal 9"])


def test_losses_in_a_row_wait_longer_and_longer(registry: Registry) -> None:
    """After the second loss the work may not be claimed before its pause is over; getting further forgives."""
    (record_id,) = opened(registry)
    pauses = []
    for number in range(1, 8):
        held = must_claim(registry, record_id)
        assert len(held.losses) == number - 1
        with registry.write() as unit:
            unit.work.retry(held, f"signal {number}")
            pauses.append(round((unit.work.of(record_id).not_before - unit.now()).total_seconds()))
        if pauses[-1] > 0:
            assert claim(registry, record_id) is None
        shift(registry, record_id, not_before=1)
    assert pauses == [0, 5, 15, 45, 120, 300, 300]
    held = must_claim(registry, record_id)
    for reached, remembered in ((0.0, 7), (0.3, 0)):
        with registry.write() as unit:
            unit.work.verify(held, reached=reached)
        with registry.read() as unit:
            assert len(unit.work.of(record_id).losses) == remembered
    with registry.write() as unit:
        unit.work.retry(held, "once more")
    held = must_claim(registry, record_id)
    with registry.write() as unit:
        unit.work.verify(held, reached=0.3)
        assert len(unit.work.of(record_id).losses) == 1, "to be where one has been is not to get further"


def test_an_expired_lease_is_a_loss(registry: Registry) -> None:
    """Work of a silent worker waits again, with the reason; its later writes are refused."""
    (expired, living) = opened(registry, count=2)
    held = must_claim(registry, expired)
    must_claim(registry, living)
    shift(registry, expired, lease_expires_at=1)
    with registry.read() as unit:
        assert unit.work.has_expired()
    with registry.write() as unit:
        assert unit.work.release_expired() == [expired]
        assert [permit.record_id for permit in unit.after_commit.permits] == [expired]
    with registry.read() as unit:
        assert (unit.work.of(expired).state, unit.work.of(expired).losses) == ("waiting", [SILENT])
        assert (unit.work.of(living).state, unit.work.has_expired()) == ("claimed", False)
    with pytest.raises(LeaseLost), registry.write() as unit:
        unit.work.renew(held, lease_seconds=60)


def test_work_of_the_dead_is_released_at_once(registry: Registry) -> None:
    """Work of workers that are known to be gone waits again although its lease is alive; others keep theirs."""
    mine, other = opened(registry, count=2)
    must_claim(registry, mine)
    with registry.write() as unit:
        assert unit.work.claim(other, worker="another", lease_seconds=60) is not None
        assert unit.work.release_held_by(["another", "a third"], "its worker died") == [other]
    assert claim(registry, mine) is None
    assert must_claim(registry, other).losses == ["its worker died"]


def test_only_work_that_nobody_began_is_withdrawn(registry: Registry) -> None:
    """Waiting work can be withdrawn once, held work cannot."""
    waiting, held = opened(registry, count=2)
    must_claim(registry, held)
    with registry.write() as unit:
        assert [unit.work.withdraw(record_id) for record_id in (waiting, held, waiting)] == [True, False, False]
    assert claim(registry, waiting) is None


def test_the_oldest_due_is_next(registry: Registry) -> None:
    """In a queue the oldest comes first; what needs too much memory, or to wait, is left."""
    first, second, third = opened(registry, count=3)
    opened(registry, kind="ds")
    gpu = new_id("job")
    with registry.write() as unit:
        unit.work.open(gpu, queue=GPU_ONLY)
        unit.work.of(second).memory_bytes = 100

    def due(queue: str, memory: int | None = None) -> str | None:
        with registry.read() as unit:
            found = unit.work.next_due(queue, memory)
            permits = [Permit(found.record_id, found.kind, queue)] if found else []
            assert unit.work.due(queue, memory, limit=1) == permits
            return found and found.record_id

    assert (due(ANY_DEVICE), due(GPU_ONLY), due("predict")) == (first, gpu, None)
    shift(registry, first, not_before=-60)
    assert (due(ANY_DEVICE), due(ANY_DEVICE, 100), due(ANY_DEVICE, 99)) == (second, second, third)
    with registry.write() as unit:
        held = unit.work.claim_next(ANY_DEVICE, worker="w", lease_seconds=60)
    assert held is not None
    assert (held.record_id, due(ANY_DEVICE)) == (second, third)


def test_blocked_work_waits_for_its_inputs(registry: Registry) -> None:
    """Blocked work is not due until it is unblocked, which wakes a worker up after the commit; it can be withdrawn."""
    notified: list[str] = []
    registry.notify = lambda permits: notified.extend(permit.record_id for permit in permits)
    blocked, given_up = new_id("job"), new_id("job")
    with registry.write() as unit:
        unit.work.open(blocked, blocked=True)
        unit.work.open(given_up, blocked=True)
    assert (notified, claim(registry, blocked)) == ([], None)
    with registry.write() as unit:
        unit.work.unblock([blocked])
        assert notified == [], "no wake-up before the commit"
        assert unit.work.withdraw(given_up)
    assert notified == [blocked]
    held = must_claim(registry, blocked)
    with registry.write() as unit:
        unit.work.block(held)
    assert (claim(registry, blocked), notified) == (None, [blocked])


def test_a_failed_transaction_leaves_nothing_and_wakes_nobody_up(registry: Registry) -> None:
    """An error inside a unit of work rolls it back whole; notified work is found."""
    notified: list[str] = []
    registry.notify = lambda permits: notified.extend(permit.record_id for permit in permits)
    failed = new_id("job")
    with pytest.raises(RuntimeError), registry.write() as unit:
        unit.work.open(failed)
        raise RuntimeError
    assert notified == []
    with registry.read() as unit:
        assert unit.session.get(Work, failed) is None
    (record_id,) = opened(registry)
    assert notified == [record_id]


def test_work_with_one_key_is_done_one_after_the_other(registry: Registry) -> None:
    """While a message to a host is delivered no other to it is claimed, by name or by turn; other hosts have theirs."""
    slow, other = [new_id("msg") for _ in range(3)], new_id("msg")
    with registry.write() as unit:
        for record_id in slow:
            unit.work.open(record_id, concurrency_key="slow.example")
        unit.work.open(other, concurrency_key="quick.example")
    first = must_claim(registry, slow[0])
    assert claim(registry, slow[1]) is None

    def next_one() -> Claim | None:
        with registry.write() as unit:
            return unit.work.claim_next("deliver", worker="w", lease_seconds=60)

    found = next_one()
    assert found is not None
    assert found.record_id == other
    assert next_one() is None
    with registry.write() as unit:
        unit.work.finish(first)
    second = next_one()
    assert second is not None
    assert second.record_id == slow[1]
    shift(registry, slow[1], lease_expires_at=1)
    assert next_one() is not None, "a holder whose lease has ended blocks no claim"


def obstacle(registry: Registry, queue: str, holder: str | None = None) -> str | None:
    """The obstacle that keeps work of this queue."""
    with registry.read() as unit:
        return unit.workers.obstacle(queue, holder)


def waits_of(registry: Registry, *job_ids: str) -> list[str | None]:
    """The `waiting_for` of the records of these jobs."""
    with registry.read() as unit:
        rows = [(unit.jobs.get(job_id), unit.work.of(job_id)) for job_id in job_ids]
        return [job_record(unit, row, work).waiting_for for row, work in rows]


def test_without_a_worker_it_is_said_which_is_needed(registry: Registry) -> None:
    """Each queue has a sentence for the worker that it lacks; a worker of another queue is none."""
    add_worker(registry, "w", "inspect", "calibrate.cpu")
    assert obstacle(registry, "inspect") is None
    assert obstacle(registry, "predict") == "no worker takes this yet; there is none that predicts batches"
    assert obstacle(registry, "calibrate.gpu") == "no worker takes this yet; there is none with a GPU"


@pytest.mark.parametrize(("silent", "told"), [(47.0, "40 s"), (299.0, "290 s"), (600.0, "10 min")])
def test_silent_workers_are_counted(registry: Registry, silent: float, told: str) -> None:
    """The silent ones of all known workers that would take it are counted, with the silence of the last of them."""
    add_worker(registry, "lives", "inspect")
    add_worker(registry, "still", "calibrate.cpu", silent_seconds=silent)
    assert obstacle(registry, "calibrate.cpu") == f"no worker takes this; 1 of 2 has not been heard of for {told}"
    add_worker(registry, "longer", "calibrate.cpu", silent_seconds=silent + 3600)
    assert obstacle(registry, "calibrate.cpu") == f"no worker takes this; 2 of 3 have not been heard of for {told}"
    add_worker(registry, "well", "calibrate.cpu", silent_seconds=SILENT_S - 5)
    assert obstacle(registry, "calibrate.cpu") is None, "it waits for its turn"


def test_a_silent_holder_is_told_apart(registry: Registry) -> None:
    """A holder's silence is reported, with whether another goes on; a living or unknown holder is no trouble."""
    add_worker(registry, "holder", "predict", silent_seconds=45)
    silent = "the worker that runs this has not been heard of for 40 s"
    assert obstacle(registry, "predict", "holder") == f"{silent}; no other one takes it"
    add_worker(registry, "other", "predict")
    assert obstacle(registry, "predict", "holder") == f"{silent}; another one goes on with it when its lease ends"
    assert obstacle(registry, "predict", "other") is None
    assert obstacle(registry, "predict", "forgotten") is None


def test_records_say_it_while_they_are_open(registry: Registry) -> None:
    """A job by its queue and its holder, one whose files are inspected by these; a final one waits for nothing."""
    add_worker(registry, "still", "calibrate.cpu", silent_seconds=45)
    waiting, held, inspected, spread = (add_job(registry) for _ in range(4))
    with registry.write() as unit:
        assert unit.work.claim(held, worker="still", lease_seconds=60)
        unit.work.of(inspected).state = unit.work.of(spread).state = "blocked"
        unit.jobs.get(spread).status = unit.jobs.get(held).status = "running"
    nobody = "no worker takes this; 1 of 1 has not been heard of for 40 s"
    assert waits_of(registry, waiting, held, inspected, spread) == [
        nobody,
        "the worker that runs this has not been heard of for 40 s; no other one takes it",
        "no worker takes this yet; there is none that inspects uploads",
        nobody,
    ]
    with registry.write() as unit:
        unit.jobs.get(waiting).status = "cancelled"
    assert waits_of(registry, waiting) == [None]


def test_uploads_and_batches_say_it(registry: Registry) -> None:
    """A dataset waits for who inspects it, a batch for who predicts."""
    dataset_id = add_dataset(registry)
    batch = tables.Batch(
        id=new_id("bat"), status="queued", created_at=now(), model_id="m", dataset_id="d", options={}, progress={}
    )
    with registry.write() as unit:
        unit.batches.add(batch)
        ordered = batch_record(unit, batch, unit.work.open(batch.id))
        uploaded = dataset_record(unit, unit.datasets.get(dataset_id))
    assert ordered.waiting_for == "no worker takes this yet; there is none that predicts batches"
    assert uploaded.waiting_for == "no worker takes this yet; there is none that inspects uploads"


def test_a_page_of_open_records_asks_once_for_workers(registry: Registry) -> None:
    """However many records it has, and not at all where all are final."""
    open_ones = [add_job(registry) for _ in range(5)]
    final = [add_job(registry, status="succeeded") for _ in range(5)]
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(registry._engine, "before_cursor_execute", note)
    for job_ids, times in ((open_ones, 1), (final, 0)):
        asked.clear()
        waits_of(registry, *job_ids)
        assert sum("FROM workers" in statement for statement in asked) == times
