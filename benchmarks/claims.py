"""How long it takes to claim a job when 10, and when 10,000, are queued: medians side by side, and their ratio.

    python -m benchmarks.claims [--queued 10000] [--rounds 300]

On SQLite, and on a PostgreSQL of its own (Debian's package `postgresql`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from service.registry import tables
from service.registry.contract import ANY_DEVICE, JobRequest
from service.registry.registry import Registry
from service.registry.repositories import ClaimLimits
from service.registry.settings import RegistrySettings
from service.registry.tables import new_id
from tests.helpers.servers import PostgreSQL, running


def fill(registry: Registry, number: int) -> None:
    """Queue so many jobs."""
    request = JobRequest(model_id="mdl_x", dataset_id="ds_x").model_dump()
    for start in range(0, number, 500):
        with registry.write() as unit:
            for _ in range(start, min(number, start + 500)):
                row = tables.Job(
                    id=new_id("job"), model_id="mdl_x", dataset_id="ds_x", status="queued", request=request,
                    progress={}, history=[], created_at=unit.now(),
                )  # fmt: skip
                unit.session.add(row)
                unit.work.open(row.id)


def claim_once(registry: Registry) -> float:
    """Seconds of one claim as a worker makes it: look, claim; then the job is handed back, which is not counted."""
    began = time.perf_counter()
    with registry.read() as unit:
        due = unit.work.next_due(ANY_DEVICE)
    assert due is not None
    with registry.write() as unit:
        claim = unit.work.claim_next(ANY_DEVICE, ClaimLimits(), worker="w", lease_seconds=60)
    seconds = time.perf_counter() - began
    assert claim is not None
    with registry.write() as unit:
        unit.work.release(claim)
    return seconds


def measure(name: str, few: Registry, many: Registry, *, queued: int, rounds: int) -> dict[str, object]:
    """Both in turn, so that whatever else the machine does meets both."""
    for registry, number in ((few, 10), (many, queued)):
        registry.migrate()
        fill(registry, number)
    seconds: dict[str, list[float]] = {"few": [], "many": []}
    for _ in range(rounds):
        seconds["few"].append(claim_once(few))
        seconds["many"].append(claim_once(many))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "database": name,
        "claim_ms_10_queued": round(1000 * medians["few"], 3),
        f"claim_ms_{queued}_queued": round(1000 * medians["many"], 3),
        "ratio": round(medians["many"] / medians["few"], 3),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(PostgreSQL) as server:
        results = []
        for database in ("sqlite", "postgresql"):
            registries = []
            for name in ("few", "many"):
                url = None
                if database == "postgresql":
                    server.execute(f"CREATE DATABASE {name}")
                    url = server.url(name)
                place = Path(folder) / database / name
                registries.append(Registry.open(RegistrySettings(data_dir=place, database_url=url, artifacts=None)))
            results.append(measure(database, *registries, queued=options.queued, rounds=options.rounds))
            for registry in registries:
                registry.close()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
