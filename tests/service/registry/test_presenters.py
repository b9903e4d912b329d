"""Records and stored files: pages, keys, deletion with shared files, times, ids, and tables as migrated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import StatementError

from fedlas.contract.profiles import OutputSpec
from service.registry import tables
from service.registry.errors import Conflict, InvalidRequest, NotFound
from service.registry.presenters import dataset_record, job_record, model_record
from service.registry.queues import QUEUES
from service.registry.registry import Registry, UnitOfWork
from service.registry.settings import ServiceSettings
from service.registry.tables import new_id, now
from tests.helpers.documents import DATASET_PROFILE, MODEL_PROFILE
from tests.helpers.staging import stage_bytes


def dataset(registry: Registry, content: bytes = b"data", **columns: Any) -> tables.Dataset:
    """A dataset row whose file is stored."""
    with stage_bytes(registry.artifacts, content) as staged:
        digest = staged.keep()
    row = {"name": "d", "bytes": len(content), "options": {}, "status": "ready", "created_at": now(), **columns}
    return tables.Dataset(id=new_id("ds"), sha256=digest, **row)


def model(registry: Registry, content: bytes = b"model", **columns: Any) -> tables.Model:
    """A model row whose file is stored."""
    with stage_bytes(registry.artifacts, content) as staged:
        digest = staged.keep()
    row = {"name": "m", "bytes": len(content), "options": {}, "status": "ready", "created_at": now(), **columns}
    return tables.Model(id=new_id("mdl"), sha256=digest, origin="uploaded", **row)


def job(of_model: tables.Model, of_dataset: tables.Dataset, **columns: Any) -> tables.Job:
    """A job row."""
    row = {"status": "queued", "request": {}, "progress": {}, "history": [], "created_at": now(), **columns}
    return tables.Job(id=new_id("job"), model_id=of_model.id, dataset_id=of_dataset.id, **row)


def files(registry: Registry) -> set[str]:
    """Digests of all stored files; nothing may be left on its way in."""
    assert list(registry.artifacts.incoming.iterdir()) == []
    return {path.name for path in registry.artifacts.root.rglob("*") if path.is_file()}


def test_migration_makes_exactly_the_tables(settings: ServiceSettings, registry: Registry) -> None:
    """Alembic finds no difference between the migrated database and the metadata, and migrating again changes none."""
    registry.migrate()
    assert registry.is_current()
    engine = create_engine(settings.resolved_database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*tables.Base.metadata.tables, "alembic_version"}
    engine.dispose()


def test_sqlite_is_prepared(tmp_path: Path) -> None:
    """Write-ahead log, full synchronisation and foreign keys are on for every connection."""
    registry = Registry.open(ServiceSettings(data_dir=tmp_path, database_url=None, artifacts=None))
    with registry.read() as unit:
        connection = unit.session.connection()
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    registry.close()
    assert found == ["wal", 2, 1]


def test_times_keep_their_zone(registry: Registry) -> None:
    """Times come back as aware UTC, to the microsecond, whatever zone they came in; naive ones are refused."""
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    row = dataset(registry, created_at=moment)
    with registry.write() as unit:
        unit.datasets.add(row)
    with registry.read() as unit:
        found = unit.datasets.get(row.id).created_at
    assert (found, found.tzinfo) == (moment, UTC)
    with pytest.raises(StatementError, match="naive"), registry.write() as unit:
        unit.datasets.add(dataset(registry, created_at=datetime(2026, 1, 1)))


def test_ids_sort_by_time() -> None:
    """Ten thousand ids of one process are different and already in order."""
    ids = [new_id("job") for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {len(record_id) for record_id in ids} == {30}


def test_pages_are_complete_and_newest_first(registry: Registry) -> None:
    """Walking the pages meets every record once, newest first, though new ones come in between."""
    with registry.write() as unit:
        ids = [unit.datasets.add(dataset(registry)).id for _ in range(7)]
    found: list[str] = []
    while len(found) < len(ids):
        with registry.write() as unit:
            rows = list(unit.datasets.newest(limit=3, after=found[-1] if found else None))
            unit.datasets.add(dataset(registry))
        found += [row.id for row in rows]
    assert found == ids[::-1]


def test_a_list_goes_on_where_a_deleted_record_stood(registry: Registry) -> None:
    """Ids sort by time: what follows an id follows it also when its record is gone."""
    with registry.write() as unit:
        ids = [unit.datasets.add(dataset(registry)).id for _ in range(5)]
    with registry.write() as unit:
        unit.datasets.delete(ids[2])
    with registry.read() as unit:
        assert [row.id for row in unit.datasets.newest(limit=9, after=ids[2])] == [ids[1], ids[0]]


def test_shared_files_stay_until_the_last_record_goes(registry: Registry) -> None:
    """Two records of the same content share a file; it goes with the second, and only then."""
    first, second, other = dataset(registry), dataset(registry), dataset(registry, b"other")
    with registry.write() as unit:
        for row in (first, second, other):
            unit.datasets.add(row)
            unit.work.open(row.id)
    assert files(registry) == {first.sha256, other.sha256}
    for row, left in ((first, {first.sha256, other.sha256}), (second, {other.sha256})):
        with registry.write() as unit:
            registry.artifacts.remove(unit.datasets.delete(row.id))
        assert files(registry) == left
    with registry.read() as unit:
        assert unit.datasets.find(first.id) is None
        assert unit.session.get(tables.Work, first.id) is None
    registry.artifacts.remove([first.sha256])  # what is gone already is no error


@pytest.mark.parametrize("status", ["queued", "running", "cancelling"])
def test_what_an_open_job_needs_stays(registry: Registry, status: str) -> None:
    """Model and dataset of an open job cannot be deleted; of a finished one they can, and the job remains."""
    data, classifier = dataset(registry), model(registry)
    order = job(classifier, data, status=status)
    with registry.write() as unit:
        for repository, row in ((unit.datasets, data), (unit.models, classifier), (unit.jobs, order)):
            repository.add(row)  # type: ignore[attr-defined]

    def delete(unit: UnitOfWork) -> None:
        unit.datasets.delete(data.id)
        unit.models.delete(classifier.id)

    with pytest.raises(Conflict), registry.write() as unit:
        delete(unit)
    with registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(order.id), "failed")
    with registry.write() as unit:
        delete(unit)
        assert unit.jobs.get(order.id).finished_at is not None


def test_the_next_version_takes_the_priors_over(registry: Registry) -> None:
    """Unless its job had some of its own, or its classes are others; each version keeps what was set for it."""
    shares, wanted = {"a": 0.5, "b": 0.5}, {"a": 0.01, "b": 0.99}
    profiles: list[dict[str, Any]] = [
        {"class_priors": {"shares": shares, "default": shares}},
        {"class_priors": {"shares": {"a": 0.4, "b": 0.6}, "default": {"a": 0.4, "b": 0.6}}},
        {"class_priors": {"shares": shares, "default": {"a": 0.2, "b": 0.8}}},
        {"class_priors": {"shares": {"a": 0.5, "c": 0.5}, "default": {"a": 0.5, "c": 0.5}}},
        {},
    ]
    rows = [model(registry, bytes([number])) for number in range(5)]
    with registry.write() as unit:
        for row, profile in zip(rows, profiles, strict=True):
            row.profile = profile
            unit.models.add(row)
        unit.names.publish("fraud", rows[0])
        assert unit.names.set_priors("fraud", 1, wanted).class_priors == wanted
        assert unit.names.publish("fraud", rows[1]) == 2
        assert unit.names.get("fraud").class_priors == wanted
        for number in (2, 3, 4):
            unit.names.switch("fraud", 2)
            version = unit.names.publish("fraud", rows[number])
            assert (version, unit.names.get("fraud").class_priors) == (number + 1, None)
        assert unit.names.switch("fraud", 1).class_priors == wanted
        assert unit.names.version("fraud", 2).class_priors == wanted
        assert unit.names.set_priors("fraud", 1, None).class_priors is None


def test_names_have_versions_and_one_default(registry: Registry) -> None:
    """Each publication is the next version and the default; an earlier one can be chosen again."""
    rows = [model(registry, bytes([number])) for number in range(3)]
    with registry.write() as unit:
        for row in rows:
            unit.models.add(row)
        assert [unit.names.publish("digits", row) for row in rows] == [1, 2, 3]
        unit.names.publish("letters", rows[0])
    with registry.write() as unit:
        assert unit.names.resolve("digits") == rows[2].id
        assert unit.names.switch("digits", 1).default_version == 1
        assert unit.names.resolve("digits") == rows[0].id
        assert [record.name for record in unit.names.listed(limit=2, after=None)] == ["digits", "letters"]
        with pytest.raises(InvalidRequest):
            unit.names.switch("digits", 4)
        with pytest.raises(NotFound):
            unit.names.switch("numbers", 1)
        with pytest.raises(NotFound):
            unit.names.resolve("numbers")
        with pytest.raises(Conflict, match="published"):
            unit.models.delete(rows[1].id)


def test_calibrators_are_quick_work(registry: Registry) -> None:
    """Scores wait in the queue of inspections, so that they never wait behind a calibration job."""
    with registry.write() as unit:
        record_id = new_id("cal")
        unit.work.open(record_id)
        found = {queue: unit.work.next_due(queue) for queue in QUEUES}
        assert [queue for queue, due in found.items() if due and due.record_id == record_id] == ["inspect"]


def test_answers_of_keys_can_become_final(registry: Registry) -> None:
    """A preliminary answer is replaced by the final one; a key that was never taken is not made."""
    with registry.write() as unit:
        unit.keys.keep("k", "content", "running")
        unit.keys.amend("k", "done")
        unit.keys.amend("other", "done")
        assert (unit.keys.answer_of("k", "content"), unit.keys.current("k")) == ("done", "done")
        assert unit.keys.current("other") is None


def test_rows_of_another_release_are_shown(registry: Registry) -> None:
    """Unknown fields in the documents of a row, at any depth, neither break its record nor appear in it."""
    odd = {"from_another_release": [1]}
    classifier = model(registry, profile={**MODEL_PROFILE, **odd, "output": {**MODEL_PROFILE["output"], **odd}})
    data = dataset(registry, profile={**DATASET_PROFILE, **odd, "splits": {**DATASET_PROFILE["splits"], **odd}})
    request = {"method": "auto", "metadata": {}, **odd}
    ordered = job(classifier, data, request=request, progress={"fraction": 0.5, **odd}, history=[])
    with registry.write() as unit:
        unit.models.add(classifier)
        unit.datasets.add(data)
        unit.jobs.open(ordered)
        work = unit.work.open(ordered.id)
    with registry.read() as unit:
        records = [model_record(unit, classifier), dataset_record(unit, data), job_record(unit, ordered, work)]
    assert all("from_another_release" not in record.model_dump_json() for record in records)
    assert records[0].output == OutputSpec.read(MODEL_PROFILE["output"])
