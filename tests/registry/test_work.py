"""Claims on a real SQLite file: exclusive, fenced, leased, handed back and found again when overdue."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from service.registry.errors import LeaseLost
from service.registry.ids import new_id
from service.registry.repositories import Claim
from service.registry.repositories.records import now
from service.registry.tables import Work
from service.registry.unit_of_work import Registry
from service.settings import ServiceSettings

ROOT = Path(__file__).parents[2]


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
    """Claim what nobody holds."""
    claimed = claim(registry, record_id, lease=lease)
    assert claimed is not None
    return claimed


def shift(registry: Registry, record_id: str, **ages: float) -> None:
    """Move times of the work into the past by so many seconds, instead of waiting."""
    values = {name: now() - timedelta(seconds=seconds) for name, seconds in ages.items()}
    with registry.write() as unit:
        unit.work.session.execute(update(Work).where(Work.record_id == record_id).values(**values))


def test_threads_never_share_a_claim(registry: Registry) -> None:
    """Of eight threads that claim the same forty pieces of work, each piece is given to exactly one."""
    ids = opened(registry, count=40)
    start = Barrier(8)

    def take(_: int) -> list[str]:
        start.wait()
        return [record_id for record_id in ids if claim(registry, record_id) is not None]

    with ThreadPoolExecutor(8) as pool:
        taken = [record_id for found in pool.map(take, range(8)) for record_id in found]
    assert sorted(taken) == sorted(ids)


def test_processes_never_share_a_claim(registry: Registry, settings: ServiceSettings) -> None:
    """The same holds between processes, each with connections of its own."""
    ids = opened(registry, count=30)
    code = (
        "import sys\n"
        "from service.registry.unit_of_work import Registry\n"
        "from service.registry.settings import RegistrySettings\n"
        "registry = Registry.open(RegistrySettings(data_dir=sys.argv[1]))\n"
        "sys.stdin.readline()\n"
        "for record_id in sys.argv[2:]:\n"
        "    with registry.write() as unit:\n"
        "        if unit.work.claim(record_id, worker='p', lease_seconds=60): print(record_id)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
    command = [sys.executable, "-c", code, str(settings.data_dir), *ids]
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
    """A heartbeat moves the end of the lease, so that nobody else gets the work."""
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
        lambda unit, old: unit.work.hand_back(old, counts=True),
    ],
    ids=["finish", "renew", "hand_back"],
)
def test_an_old_token_writes_nothing(registry: Registry, write: Callable[..., None]) -> None:
    """Who lost the lease can do nothing, and everything else in that transaction is rolled back."""
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


def test_handing_back_counts_or_not(registry: Registry) -> None:
    """Work handed back can be claimed at once; only a lost process counts as an attempt."""
    (record_id,) = opened(registry)
    for counts, attempts in ((False, 1), (True, 1), (True, 2), (False, 3)):
        held = must_claim(registry, record_id)
        assert held.attempts == attempts
        with registry.write() as unit:
            unit.work.hand_back(held, counts=counts)


def test_only_work_that_nobody_began_is_withdrawn(registry: Registry) -> None:
    """Waiting work can be withdrawn once, held work cannot."""
    waiting, held = opened(registry, count=2)
    must_claim(registry, held)
    with registry.write() as unit:
        assert [unit.work.withdraw(record_id) for record_id in (waiting, held, waiting)] == [True, False, False]
    assert claim(registry, waiting) is None


def test_overdue_work_is_rung_once_per_period(registry: Registry) -> None:
    """Unheard and expired work is overdue, expired first; fresh, held and finished work is not; once rung, it rests."""
    unheard, fresh, held, expired, done = opened(registry, count=5)
    must_claim(registry, held)
    must_claim(registry, expired)
    last = must_claim(registry, done)
    with registry.write() as unit:
        unit.work.finish(last)
    for record_id in (unheard, held, expired, done):
        shift(registry, record_id, rung_at=10)
    shift(registry, expired, lease_expires_at=1)
    with registry.write() as unit:
        first = unit.work.overdue(ring_after_seconds=3, limit=1)
        rest = unit.work.overdue(ring_after_seconds=3, limit=10)
        again = unit.work.overdue(ring_after_seconds=3, limit=10)
    assert (first, rest, again) == ([(expired, "calibrate")], [(unheard, "calibrate")], [])
    assert fresh not in (first, rest)


def test_the_oldest_waiting_is_next(registry: Registry) -> None:
    """The next piece of work is the oldest of its kind."""
    first, second = opened(registry, count=2)
    opened(registry, kind="ds")
    with registry.read() as unit:
        assert unit.work.next_waiting("calibrate") == first
    must_claim(registry, first)
    with registry.read() as unit:
        assert unit.work.next_waiting("calibrate") == second
        assert unit.work.next_waiting("predict") is None


def test_a_failed_transaction_leaves_nothing(registry: Registry) -> None:
    """What raises inside a unit of work is rolled back whole."""
    record_id = new_id("job")

    def fail() -> None:
        with registry.write() as unit:
            unit.work.open(record_id)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with registry.read() as unit:
        session: Session = unit.work.session
        assert session.get(Work, record_id) is None
