"""What a worker asks of database and broker, idle and at work, and what fleets of 10, 100 and 1,000 would ask.

    python -m benchmarks.fleet --seconds 20 --workers 4

PostgreSQL (with `fsync`) and Redis, whose transactions, commands and processor time are counted: beside an API alone,
beside idle workers, beside one that trains, and while permits are sent and taken. Then single operations as a worker
makes them, on SQLite and on PostgreSQL, where one transaction writes at a time, too: what a fleet asks of that writer
is a share of its time. A fleet is a multiplication: nothing here runs a hundred workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.api_process import Api, DurablePostgreSQL, running_api
from benchmarks.celery_workers import LIGHT, celery_worker, celery_workers, training_job
from benchmarks.claims import fill
from benchmarks.server_load import Load, Servers, cpu_seconds
from benchmarks.spread_race import uploads
from service.registry.contract import ANY_DEVICE
from service.registry.registry import Registry
from service.registry.repositories import ClaimLimits
from service.registry.repositories.work import Claim
from service.registry.settings import RegistrySettings
from tests.helpers.processes import descendants_of, until
from tests.helpers.servers import running

Json = dict[str, Any]

FLEETS = (10, 100, 1000)
_START_S = 20.0
#: The network of a race of so many minutes; an epoch takes a second or two.
_EPOCHS_OF_MINUTES = 8.0
#: How long a piece of work takes, in a fleet that is always busy.
_PIECE_S = 30.0
#: Every two seconds the lease of its work, and that it lives.
_WRITES_A_SECOND = 1.0


def workers_ask(numbers: tuple[int, int], seconds: float) -> dict[str, Any]:
    """What idle workers and one that trains add to what an API asks; of idle ones in two numbers."""
    with running_api("postgresql") as api, _servers(api) as servers:
        alone, before = servers.rates(seconds), servers.connections()
        idle: dict[int, Load] = {}
        for number in numbers:
            with celery_workers(number, api.environment, (ANY_DEVICE,)):
                time.sleep(_START_S)
                idle[number] = (servers.rates(seconds) - alone) / number
                now = servers.connections()
        with celery_worker(api.environment, LIGHT), celery_worker(api.environment, (ANY_DEVICE,)):
            time.sleep(_START_S)
            still = servers.rates(seconds)
            with training_job(api, uploads(_EPOCHS_OF_MINUTES), epoch=2):
                training = servers.rates(seconds) - still
    return {
        "api_alone": alone,
        **{f"idle_worker_of_{number}": load for number, load in idle.items()},
        "training_beside_idle": training,
        "connections_of_a_worker": {
            "database": (now.database - before.database) / numbers[-1],
            "broker": (now.broker - before.broker) / numbers[-1],
        },
    }


@contextmanager
def _servers(api: Api) -> Iterator[Servers]:
    servers = Servers(api.environment["FEDLAS_DATABASE_URL"], api.environment["FEDLAS_BROKER_URL"])
    try:
        yield servers
    finally:
        servers.close()


def needless_permits(number: int) -> Load:
    """What one permit costs that is sent, taken and finds nothing due."""
    with running_api("postgresql") as api, _servers(api) as servers, celery_worker(api.environment, ("deliver",)):
        app = Celery("fleet", broker=api.environment["FEDLAS_BROKER_URL"], set_as_current=False)
        time.sleep(_START_S)
        before = servers.load()
        for _ in range(number):
            app.send_task("fedlas.deliver", args=["msg_x"], queue="deliver", retry=False, ignore_result=True)
        until(lambda: servers.waiting_messages("deliver") == 0, seconds=300, what="all permits are taken")
        after = servers.load()
        app.close()
    return (after - before) / number


def operations(registry: Registry, rounds: int, postmaster: int | None = None) -> Json:
    """Milliseconds of a look for due work, a claim and the renewal of its lease, among a thousand queued jobs."""
    fill(registry, 1000)
    claims: list[Claim] = []

    def look() -> None:
        with registry.read() as unit:
            assert unit.work.next_due(ANY_DEVICE) is not None

    def claim() -> None:
        with registry.write() as unit:
            claimed = unit.work.claim_next(ANY_DEVICE, ClaimLimits(), worker="w", lease_seconds=600)
        assert claimed is not None
        claims.append(claimed)

    def renewal() -> None:
        with registry.write() as unit:
            unit.work.renew(claims[-1], lease_seconds=600)

    return {do.__name__: _cost(do, rounds, postmaster) for do in (look, claim, renewal)}


def _cost(do: Callable[[], None], rounds: int, postmaster: int | None) -> Json:
    def computed() -> float:
        return 0.0 if postmaster is None else sum(map(cpu_seconds, {postmaster, *descendants_of(postmaster)}))

    seconds, before = [], computed()
    for _ in range(rounds):
        began = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - began)
    cost = {"ms": round(1000 * statistics.median(seconds), 3)}
    return cost if postmaster is None else {**cost, "database_cpu_ms": round(1000 * (computed() - before) / rounds, 3)}


def both_databases(rounds: int) -> Json:
    """The operations on an SQLite file, and on a PostgreSQL whose commits are on the disk."""
    found: Json = {}
    with tempfile.TemporaryDirectory() as folder, running(DurablePostgreSQL) as server:
        server.execute("CREATE DATABASE fleet")
        assert server.process is not None
        of_server = (server.url("fleet"), server.process.pid)
        for name, (url, postmaster) in {"sqlite": (None, None), "postgresql": of_server}.items():
            place = Path(folder) / name
            registry = Registry.open(RegistrySettings(data_dir=place, database_url=url, artifacts=None))
            registry.migrate()
            found[name] = operations(registry, rounds, postmaster)
            registry.close()
    return found


def fleet(number: int, asked: Json, permit: Load, costs: Json) -> Json:
    """So many workers, all of them busy with pieces of half a minute: sums of what was measured of one."""
    idle = next(load for name, load in asked.items() if name.startswith("idle_worker"))
    busy, connections, ended = asked["training_beside_idle"], asked["connections_of_a_worker"], number / _PIECE_S
    claims = 2 * costs["postgresql"]["claim"]["database_cpu_ms"] / 1000  # a piece is claimed and finished
    writes = number * _WRITES_A_SECOND + 2 * ended
    return {
        "writes_per_second": round(writes, 1),
        "share_of_the_one_writer": {
            name: round(writes * cost["renewal"]["ms"] / 1000, 3) for name, cost in costs.items()
        },
        "database_cores": round(number * (idle.database_cpu_s + busy.database_cpu_s) + ended * claims, 3),
        "broker_cores": round(number * (idle.broker_cpu_s + busy.broker_cpu_s) + ended * permit.broker_cpu_s, 3),
        "database_connections": round(number * connections["database"]),
        "broker_connections": round(number * connections["broker"]),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each rate is counted")
    parser.add_argument("--workers", type=int, nargs=2, default=(1, 4), help="two numbers of idle workers")
    parser.add_argument("--permits", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    costs = both_databases(options.rounds)
    permit = needless_permits(options.permits)
    asked = workers_ask(tuple(options.workers), options.seconds)
    fleets = {number: fleet(number, asked, permit, costs) for number in FLEETS}
    told = {name: one.rounded() if isinstance(one, Load) else one for name, one in asked.items()}
    result = {
        "operations": costs, "one_needless_permit": permit.rounded(), "by_second": told, "fleets": fleets,
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
    }  # fmt: skip
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
