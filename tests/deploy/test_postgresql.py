"""The registry on a real PostgreSQL, where its programs are installed: what SQLite gives for nothing, and restarts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import yaml

from service.registry import tables
from service.registry.backups import back_up, restore
from service.registry.errors import BackupRefused, Unavailable
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.settings import RegistrySettings
from service.registry.tables import new_id, now
from tests.helpers import backends
from tests.helpers.dockerfile import ROOT
from tests.helpers.processes import until
from tests.helpers.programs import POSTGRESQL
from tests.helpers.servers import PostgreSQL, running
from tests.helpers.staging import stage_bytes


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """A fresh server that lives as long as these tests."""
    if backends.chosen() == "embedded":
        POSTGRESQL.needed()
    with running(PostgreSQL) as started:
        yield started


@pytest.fixture
def registry(server: PostgreSQL, tmp_path: Path) -> Iterator[Registry]:
    """A migrated registry on PostgreSQL."""
    place = RegistrySettings(database_url=server.url("postgres"), artifacts=str(tmp_path / "artifacts"))
    opened = Registry.open(place)
    opened.migrate()
    yield opened
    opened.close()


def running_job(registry: Registry) -> Claim:
    """A job that a worker holds."""
    job_id = new_id("job")
    fields = {"model_id": "mdl_x", "dataset_id": "ds_x", "request": {}, "progress": {}, "history": []}
    with registry.write() as unit:
        unit.jobs.add(tables.Job(id=job_id, status="running", created_at=now(), **fields))
        unit.work.open(job_id)
    with registry.write() as unit:
        claim = unit.work.claim(job_id, worker="w", lease_seconds=60)
    assert claim is not None
    return claim


def test_migrating_at_the_same_time_is_harmless(server: PostgreSQL, tmp_path: Path) -> None:
    """Several services that start together leave one current schema."""
    server.execute("CREATE DATABASE together")
    place = RegistrySettings(database_url=server.url("together"), artifacts=str(tmp_path))
    opened = [Registry.open(place) for _ in range(4)]
    threads = [threading.Thread(target=registry.migrate) for registry in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(registry.is_current() for registry in opened)
    for registry in opened:
        registry.close()


def test_a_backup_becomes_an_empty_database(
    registry: Registry, server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with tables is left alone, and without PostgreSQL's programs there is a sentence."""

    def place(name: str) -> RegistrySettings:
        return RegistrySettings(data_dir=tmp_path, database_url=server.url(name), artifacts=str(tmp_path / "artifacts"))

    with stage_bytes(registry.artifacts, b"content") as staged, registry.write() as unit:
        digest, ready = staged.keep(), {"options": {}, "status": "ready", "created_at": now()}
        unit.datasets.add(tables.Dataset(id="ds_1", name="d", bytes=7, sha256=digest, **ready))
        for name in ("stays", "revoked"):
            row = tables.ApiKey(id=new_id("key"), name=name, scopes=[], sha256=name * 8, created_at=now())
            unit.api_keys.add(row)
    back_up(place("postgres"), tmp_path / "backup")
    with pytest.raises(BackupRefused, match=r"psql .* already exists.*; name an empty database"):
        restore(place("postgres"), tmp_path / "backup")
    server.execute("CREATE DATABASE restored")
    registry.artifacts.remove([digest])
    keys = tmp_path / "run" / "served" / "keys" / "keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text(json.dumps({"stays" * 8: {}}))
    assert "\nAPI keys that stay closed: 1" in restore(place("restored"), tmp_path / "backup")
    with closing(Registry.open(place("restored"))) as restored, restored.read() as unit:
        assert unit.datasets.get("ds_1").sha256 == digest
        assert [key.name for key in unit.api_keys.all()] == ["stays"]
        assert restored.artifacts.path(digest).read_bytes() == b"content"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackupRefused, match="pg_dump is not installed: install it"):
        back_up(place("restored"), tmp_path / "second")


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
    """Twenty workers hear of one record, and exactly one of them may do it."""
    job_id = running_job(registry).record_id
    with registry.write() as unit:
        held = unit.work.of(job_id)
        unit.work.release(Claim(job_id, "calibrate", held.token, held.attempts))
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


def test_a_scaler_counts_what_the_metrics_tell(registry: Registry, server: PostgreSQL) -> None:
    """The query of the example for KEDA: rows of the light queues that are due or held, in PostgreSQL's own words."""
    scaler, *_ = yaml.safe_load_all((ROOT / "deploy" / "keda" / "light.yaml").read_text())
    query: str = scaler["spec"]["triggers"][0]["metadata"]["query"]

    def counted() -> tuple[int, int]:
        place = server.url("postgres").replace("+psycopg", "")
        with psycopg.connect(place) as connection, registry.read() as unit:
            found = connection.execute(query.encode()).fetchone()
            work = unit.work_overview.open_work()
        assert found is not None
        light = [one for (queue, _), one in work.items() if queue in ("inspect", "plan", "predict")]
        return int(found[0]), sum(one.due + one.claimed for one in light)

    before = counted()
    with registry.write() as unit:
        later, held, *_ = (unit.work.open(new_id(prefix)).record_id for prefix in ("ds", "ds", "ds", "bat"))
        unit.work.open(new_id("ds"), blocked=True)
        unit.work.of(later).not_before = unit.now() + timedelta(hours=1)
    with registry.write() as unit:
        assert unit.work.claim(held, worker="w", lease_seconds=60) is not None
    assert before[0] == before[1]
    assert counted() == (before[0] + 3, before[1] + 3)


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "crashed"])
def test_a_restart_is_outlived(registry: Registry, server: PostgreSQL, crash: bool) -> None:
    """While the database is away answers say so, a transaction it cut short leaves nothing, and then all goes on."""
    claim = running_job(registry)
    with pytest.raises(Unavailable), registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(claim.record_id), "cancelling")
        (server.kill if crash else server.stop)()
    with pytest.raises(Unavailable):
        registry.check()
    server.start()
    until(lambda: reachable(registry), what="the registry has found its database again")
    with registry.write() as unit:
        assert unit.jobs.get(claim.record_id).status == "running"
        unit.work.renew(claim, lease_seconds=60)


def reachable(registry: Registry) -> bool:
    """True where the database answers."""
    try:
        registry.check()
    except Unavailable:
        return False
    return True
