"""The permit watch over a real broker: what is missing is sent once, and what is of no use is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from service.registry.contract import task_name
from service.registry.registry import Registry
from service.settings import ServiceSettings
from tests.helpers.servers import Valkey, running
from tests.helpers.work import add_dataset, hurried, permits_of
from worker.outside import permit_watch
from worker.outside.broker import Broker
from worker.outside.permit_watch import PermitWatch
from worker.outside.supervisor import Supervisor

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
    """The same database as a worker sees it."""
    opened = Broker(valkey.url(client.connection_pool.connection_kwargs["db"]))
    yield opened
    opened.close()


@pytest.fixture
def watch(
    broker: Broker, registry: Registry, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> PermitWatch:
    """A watch whose turn it is as often as a test asks."""
    monkeypatch.setattr(permit_watch, "_DUE_FOR_S", 0.0)
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
    """Permits for work that only a busy, larger worker may claim vanish: there are a few of them, and not one a second.

    With the first permit that is held, or used, all is forgotten.
    """
    now = [1000.0]
    monkeypatch.setattr("worker.outside.permit_watch.time.monotonic", lambda: now[0])
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
