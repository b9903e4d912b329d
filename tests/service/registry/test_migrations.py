"""Databases of earlier versions: every row is kept, and what they knew of looks is not forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from service.registry import tables
from service.registry.contract import ANY_DEVICE
from service.registry.database import open_engine
from service.registry.list_filter import ListFilter
from service.registry.migrate import _config
from service.registry.presenters import calibrator_record, job_record, model_record
from service.registry.registry import Registry
from service.registry.repositories import Due
from service.registry.revision import newest
from service.registry.tables import now
from service.settings import ServiceSettings
from tests.helpers import backends

MOMENT = "2026-01-02 03:04:05.000006"


def to_revision(engine: sa.Engine, revision: str, *, down: bool = False) -> None:
    """Bring the tables to one revision."""
    with engine.execution_options(writes=True).begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def insert(engine: sa.Engine, table: str, **values: Any) -> None:
    """Insert a row as the old code did."""
    names = ", ".join(f'"{name}"' for name in values)  # one of them is `order`
    marks = ", ".join(f":{name}" for name in values)
    with engine.execution_options(writes=True).begin() as connection:
        connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def add_dataset(engine: sa.Engine, record_id: str, sha256: str) -> None:
    """A dataset of the first release."""
    insert(
        engine, "datasets", id=record_id, name="d", bytes=4, sha256=sha256, options="{}", status="ready",
        created_at=MOMENT,
    )  # fmt: skip


def add_job(engine: sa.Engine, record_id: str, dataset_id: str, verdict: str | None, **values: str) -> None:
    """A job of the first release."""
    given = {"request": '{"method": "auto"}', "status": "succeeded", **values}
    insert(
        engine, "jobs", id=record_id, model_id="mdl_1", dataset_id=dataset_id, progress="{}", history="[]",
        verdict=verdict, promoted=False, report_sha256="c" * 64, created_at=MOMENT, **given,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings of a database without tables."""
    with backends.place(tmp_path / "data", migrated=False) as place:
        yield ServiceSettings(**place)


@pytest.fixture
def first_release(settings: ServiceSettings) -> sa.Engine:
    """A database of revision 0001 with rows."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0001")
    add_dataset(engine, "ds_1", "a" * 64)
    add_dataset(engine, "ds_2", "a" * 64)
    add_dataset(engine, "ds_3", "b" * 64)
    jobs = [("ds_1", "trained"), ("ds_2", "unchanged"), ("ds_1", "undetermined"), ("ds_3", "post_hoc"), ("ds_1", None)]
    for number, (dataset_id, verdict) in enumerate(jobs):
        add_job(engine, f"job_{number}", dataset_id, verdict)
    insert(
        engine, "work", record_id="job_0", kind="calibrate", state="done", attempts=1, token=1, rung_at=MOMENT
    )  # fmt: skip
    return engine


def test_rows_of_the_first_release_are_kept(settings: ServiceSettings, first_release: sa.Engine) -> None:
    """After the migration every dataset and job reads as before, and the new columns are empty."""
    first_release.dispose()
    registry = Registry.open(settings)
    assert not registry.is_current()
    registry.migrate()
    assert registry.is_current()
    with registry.read() as unit:
        jobs = [unit.jobs.get(f"job_{number}") for number in range(5)]
        assert [job.verdict for job in jobs] == ["trained", "unchanged", "undetermined", "post_hoc", None]
        assert {(job.report_sha256, job.page_sha256) for job in jobs} == {("c" * 64, None)}
        assert unit.datasets.get("ds_2").sha256 == "a" * 64
        assert unit.work.of("job_0").state == "done"
        assert list(unit.calibrators.newest(limit=10, after=None)) == []
    registry.close()


def test_looks_of_the_first_release_count(settings: ServiceSettings, first_release: sa.Engine) -> None:
    """Jobs judged before there was a ledger have looked: by file, over both datasets of the same content."""
    first_release.dispose()
    registry = Registry.open(settings)
    registry.migrate()
    with registry.write() as unit:
        assert unit.ledger.enter("a" * 64, "job_new") == 2
        assert unit.ledger.enter("b" * 64, "job_other") == 1
        assert unit.ledger.enter("a" * 64, "job_1") == 1, "a judged job keeps its number"
    registry.close()


def test_rows_of_the_second_release_are_kept(settings: ServiceSettings) -> None:
    """A database with calibrators and looks goes on: its jobs were no dry runs, and uploads can be announced."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0002")
    add_dataset(engine, "ds_1", "a" * 64)
    add_job(engine, "job_1", "ds_1", "trained")
    insert(engine, "looks", job_id="job_1", dataset_sha256="a" * 64, number=0)
    insert(
        engine, "work", record_id="job_1", kind="calibrate", state="done", attempts=1, token=1, rung_at=MOMENT
    )  # fmt: skip
    engine.dispose()
    registry = Registry.open(settings)
    assert not registry.is_current()
    registry.migrate()
    with registry.write() as unit:
        row = unit.jobs.get("job_1")
        row.request = {**row.request, "metadata": {}}
        record = job_record(row, unit.work.of("job_1"))
        assert (record.verdict, record.dry_run, record.plan) == ("trained", False, None)
        assert unit.ledger.evaluations("a" * 64) == 1
        unit.uploads.add(tables.Upload(id="upl_1", bytes=2**40, created_at=now()))
    with registry.read() as unit:
        assert unit.uploads.get("upl_1").bytes == 2**40
    registry.close()


def test_work_of_the_third_release_goes_on(settings: ServiceSettings) -> None:
    """Open work finds its queue, and a claim of a worker that the update ended is released like any other."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0003")
    kinds = {"job_1": "calibrate", "job_2": "plan", "ds_1": "inspect", "bat_1": "predict"}
    for record_id, kind in kinds.items():
        insert(engine, "work", record_id=record_id, kind=kind, state="waiting", attempts=0, token=0, rung_at=MOMENT)
    insert(
        engine, "work", record_id="job_3", kind="calibrate", state="claimed", attempts=1, token=7, worker="w",
        lease_expires_at=MOMENT, rung_at=MOMENT,
    )  # fmt: skip
    engine.dispose()
    registry = Registry.open(settings)
    registry.migrate()
    with registry.write() as unit:
        queues = {record_id: unit.work.of(record_id).queue for record_id in kinds}
        assert queues == {"job_1": ANY_DEVICE, "job_2": "plan", "ds_1": "inspect", "bat_1": "predict"}
        due = {record_id: unit.work.next_due(queue) for record_id, queue in queues.items()}
        assert due == {record_id: Due(record_id, kinds[record_id], record_id) for record_id in kinds}
        assert unit.work.release_expired() == ["job_3"]
        again = unit.work.claim("job_3", worker="v", lease_seconds=60)
        assert again is not None
        assert (again.token, again.attempts) == (8, 2)
        assert list(unit.events.newest_before("job_1", None, limit=10)) == []
    registry.close()


def test_messages_that_wait_are_told_by_their_hosts(settings: ServiceSettings) -> None:
    """Messages that wait while the service is updated take turns by host as later ones do."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0005")
    urls = {
        "msg_1": "https://Slow.example:8443/a?b",
        "msg_2": "https://slow.example/",
        "msg_3": "https://[2001:DB8::1]/",
    }
    for record_id, url in urls.items():
        insert(
            engine, "deliveries", id=record_id, job_id="job_1", type="job.failed", url=url, body="{}", attempts="[]",
            status="pending", created_at=MOMENT,
        )  # fmt: skip
        insert(
            engine, "work", record_id=record_id, kind="deliver", state="waiting", attempts=0, token=0,
            not_before=MOMENT, queue="deliver", memory_bytes=0, losses="[]", reached=0.0,
        )  # fmt: skip
    engine.dispose()
    registry = Registry.open(settings)
    registry.migrate()
    with registry.read() as unit:
        keys = [unit.work.of(record_id).concurrency_key for record_id in urls]
    assert keys == ["slow.example", "slow.example", "2001:db8::1"]
    registry.close()


def test_calibrators_of_the_sixth_release_are_kept(settings: ServiceSettings) -> None:
    """A calibrator that was fitted before there were reports of scores reads as before, and says that it has none."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0006")
    insert(
        engine, "calibrators", id="cal_1", name="c", bytes=4, sha256="a" * 64, method="temperature", status="succeeded",
        options='{"method": "auto", "class_names": null}', parameters='{"temperature": 2.0}', created_at=MOMENT,
        profile='{"input": "logits", "num_samples": 400, "num_classes": 2, "class_names": ["0", "1"]}',
        report='{"verdict": "post_hoc", "summary": ["It was fitted."]}', onnx_sha256="b" * 64,
    )  # fmt: skip
    engine.dispose()
    registry = Registry.open(settings)
    registry.migrate()
    with registry.read() as unit:
        row = unit.calibrators.get("cal_1")
        record = calibrator_record(row)
    assert (record.report_url, record.parameters) == (None, {"temperature": 2.0})
    assert record.report == {"verdict": "post_hoc", "summary": ["It was fitted."]}
    assert row.onnx_sha256 == "b" * 64
    registry.close()


def test_open_jobs_of_the_eighth_release_publish_what_they_were_to(settings: ServiceSettings) -> None:
    """Where `promoted` meant shown to be better, an open job goes on with `shown`; one that has ended stays."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0008")
    orders = {"job_1": ("promoted", "queued"), "job_2": ("always", "running"), "job_3": ("promoted", "succeeded")}
    for record_id, (when, status) in orders.items():
        add_job(engine, record_id, "ds_1", None, request=f'{{"publish_when": "{when}"}}', status=status)
    to_revision(engine, "head")
    registry = Registry.open(settings)
    with registry.read() as unit:
        jobs = [unit.jobs.get(record_id) for record_id in orders]
        assert [job.request["publish_when"] for job in jobs] == ["shown", "always", "promoted"]
        assert {job.shown for job in jobs} == {None}
    with registry.write() as unit:
        unit.jobs.get("job_2").request = {"publish_when": None}
    registry.close()
    to_revision(engine, "0008", down=True)
    with engine.connect() as connection:
        found = list(connection.execute(sa.text("SELECT request FROM jobs ORDER BY id")).scalars())
    assert [json.loads(request) if isinstance(request, str) else request for request in found] == [
        {"publish_when": "promoted"}
    ] * 3
    engine.dispose()


def test_jobs_of_the_twelfth_release_are_found(settings: ServiceSettings) -> None:
    """By the name that they publish under and by their metadata, as later ones are; models keep their reports."""
    engine = open_engine(settings.resolved_database_url)
    to_revision(engine, "0012")
    requests = ({"publish_as": "digits", "metadata": {"team": "x", "né": ""}}, {"publish_as": None, "metadata": {}}, {})
    for number, request in enumerate(requests):
        add_job(engine, f"job_{number}", "ds_1", None, request=json.dumps(request))
    insert(
        engine, "models", id="mdl_1", name="m", version=1, origin="calibrated", bytes=4, sha256="a" * 64, options="{}",
        status="ready", calibrated=True, job_id="job_0", created_at=MOMENT,
    )  # fmt: skip
    engine.dispose()
    registry = Registry.open(settings)
    registry.migrate()
    with registry.write() as unit:
        for only in (ListFilter(name="digits"), ListFilter(metadata={"team": "x", "né": ""})):
            assert [row.id for row in unit.jobs.listed(only, limit=9, after=None)] == ["job_0"]
        assert [row.publish_as for row in unit.jobs.newest(limit=9, after=None)] == [None, None, "digits"]
        assert model_record(unit.models.get("mdl_1")).report_url == "/v1/jobs/job_0/report"
        unit.names.publish("digits", unit.models.get("mdl_1"))
    registry.close()
    to_revision(engine, "0012", down=True)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT name, version FROM published_versions")).all() == [("digits", 1)]
        assert "job_metadata" not in sa.inspect(connection).get_table_names()
    engine.dispose()


def test_an_unmigrated_database_is_not_current(settings: ServiceSettings) -> None:
    """A worker that starts first sees that the tables are not there yet."""
    fresh = Registry.open(settings)
    assert not fresh.is_current()
    fresh.close()


def test_the_last_file_is_the_newest_revision() -> None:
    """A process that finds it in place loads no migration."""
    assert newest() == ScriptDirectory.from_config(_config()).get_current_head()


def test_the_way_back(settings: ServiceSettings, first_release: sa.Engine) -> None:
    """Going back to the first release keeps its rows, and forward again works.

    A job that waits for pieces, of which older releases know nothing, waits to be claimed; nothing of them is left.
    """
    to_revision(first_release, "head")
    for record_id, kind, state in (
        ("job_1", "calibrate", "blocked"), ("cnd_1", "candidate", "waiting"), ("job_2", "calibrate", "blocked")
    ):  # fmt: skip
        insert(
            first_release, "work", record_id=record_id, kind=kind, queue=ANY_DEVICE, state=state, not_before=MOMENT,
            memory_bytes=0, attempts=0, losses="[]", reached=0.0, token=0,
        )  # fmt: skip
    insert(
        first_release, "pieces", id="cnd_1", parent_id="job_1", place=0, name="a", status="waiting", work_seconds=1.0,
        reached=0.0, created_at=MOMENT, order="{}",
    )  # fmt: skip
    insert(first_release, "checkpoints", job_id="cnd_1", name="running", sha256="d" * 64, saved_at=MOMENT)
    to_revision(first_release, "0015", down=True)
    with first_release.connect() as connection:
        states = connection.execute(sa.text("SELECT record_id, state FROM work WHERE record_id <> 'job_0'")).all()
        assert {tuple(row) for row in states} == {("job_1", "waiting"), ("job_2", "blocked")}
        assert connection.execute(sa.text("SELECT COUNT(*) FROM checkpoints")).scalar() == 0
    to_revision(first_release, "0001", down=True)
    with first_release.connect() as connection:
        assert connection.execute(sa.text("SELECT COUNT(*) FROM jobs")).scalar() == 5
        assert not {"page_sha256", "plan", "shown"} & {
            column["name"] for column in sa.inspect(connection).get_columns("jobs")
        }
        models = {column["name"] for column in sa.inspect(connection).get_columns("models")}
        assert not {"seen_rows_sha256", "seen_rows_key"} & models
        assert "uploads" not in sa.inspect(connection).get_table_names()
    to_revision(first_release, "head")
    first_release.dispose()
    registry = Registry.open(settings)
    assert registry.is_current()
    registry.close()
