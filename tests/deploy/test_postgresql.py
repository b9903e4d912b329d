"""The registry on a real PostgreSQL, where its programs are installed: the promises that SQLite gives for nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.registry import tables
from service.registry.ids import new_id
from service.registry.repositories import Claim
from service.registry.repositories.records import now
from service.registry.settings import RegistrySettings
from service.registry.unit_of_work import Registry
from tests.deploy.test_processes import free_port
from tests.helpers.service import until


def program(name: str) -> str | None:
    """Where a PostgreSQL program is; Debian keeps the server's outside PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """The URL of a fresh server that lives as long as these tests."""
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="fedlas-pg-") as name:
        folder, other_user = Path(name), {}
        if os.geteuid() == 0:  # the server refuses to run as root
            other_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        subprocess.run(
            [initdb, "-D", str(data), "-U", "fedlas", "--auth=trust", "--no-sync"],
            check=True, capture_output=True, cwd="/", **other_user,
        )  # fmt: skip
        options = ["-p", str(port), "-k", str(folder), "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
        server = subprocess.Popen(
            [postgres, "-D", str(data), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **other_user,
        )  # fmt: skip
        try:
            ready = [str(program("pg_isready")), "-h", "127.0.0.1", "-p", str(port), "-q"]
            until(lambda: subprocess.run(ready).returncode == 0, seconds=30, what="PostgreSQL is ready")
            yield f"postgresql+psycopg://fedlas@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def registry(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """A migrated registry on PostgreSQL."""
    opened = Registry.open(RegistrySettings(database_url=database_url, artifacts=tmp_path / "artifacts"))
    opened.migrate()
    yield opened
    opened.close()


def running_job(registry: Registry) -> Claim:
    """A job that a worker holds."""
    job_id = new_id("job")
    fields = {"model_id": "mdl_x", "dataset_id": "ds_x", "request": {}, "progress": {}, "history": []}
    with registry.write() as unit:
        unit.jobs.add(tables.Job(id=job_id, status="running", created_at=now(), promoted=False, **fields))
        unit.work.open(job_id)
    with registry.write() as unit:
        claim = unit.work.claim(job_id, worker="w", lease_seconds=60)
    assert claim is not None
    return claim


def test_migrating_at_the_same_time_is_harmless(database_url: str, tmp_path: Path) -> None:
    """Several services that start together leave one current schema."""
    opened = [Registry.open(RegistrySettings(database_url=database_url, artifacts=tmp_path)) for _ in range(4)]
    threads = [threading.Thread(target=registry.migrate) for registry in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(registry.is_current() for registry in opened)
    for registry in opened:
        registry.close()


def test_a_cancellation_never_overwrites_the_end_of_its_job(registry: Registry) -> None:
    """A job that ends while its cancellation is being written is ended afterwards, not `cancelling` for ever."""
    claim = running_job(registry)
    has_read, may_write = threading.Event(), threading.Event()

    def cancel() -> None:
        with registry.write() as unit:
            row = unit.jobs.get(claim.record_id)
            has_read.set()
            may_write.wait(0.5)  # times out: the worker cannot get in between
            unit.jobs.change_status(row, "cancelling")

    def succeed() -> None:
        with registry.write() as unit:
            unit.work.finish(claim)
            unit.jobs.change_status(unit.jobs.get(claim.record_id), "succeeded")
        may_write.set()

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    has_read.wait(10)
    succeed()
    cancelling.join()
    with registry.read() as unit:
        job = unit.jobs.get(claim.record_id)
    assert job.status == "succeeded"
    assert [change["status"] for change in job.history] == ["cancelling", "succeeded"]


def test_reading_does_not_wait_for_a_writer(registry: Registry) -> None:
    """Long polls and lists go on while a worker publishes."""
    claim = running_job(registry)
    with registry.write() as writer:
        writer.jobs.change_status(writer.jobs.get(claim.record_id), "cancelling")
        with registry.read() as reader:
            assert reader.jobs.get(claim.record_id).status == "running"


def test_one_of_many_workers_gets_the_work(registry: Registry) -> None:
    """Of twenty workers that hear of the same record, exactly one may do it."""
    job_id = running_job(registry).record_id
    with registry.write() as unit:
        held = unit.work.of(job_id)
        unit.work.hand_back(Claim(job_id, "calibrate", held.token, held.attempts), counts=False)
    won: list[Claim | None] = []

    def claim() -> None:
        with registry.write() as unit:
            won.append(unit.work.claim(job_id, worker="w", lease_seconds=60))

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 20
    assert len([claim for claim in won if claim is not None]) == 1
