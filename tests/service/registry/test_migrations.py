"""The tables of a new database, and databases that are not of this release."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from starlette.testclient import TestClient

from fedlas.contract.report import Report
from service.cli import main
from service.processes.api import create_app
from service.registry.database import newest, open_engine
from service.registry.migrate import alembic_config
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers import backends

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings of a database without tables."""
    with backends.place(tmp_path / "data", migrated=False) as place:
        yield ServiceSettings(**place)


def test_an_unmigrated_database_is_not_current(settings: ServiceSettings) -> None:
    """A worker that starts first sees that the tables are not there yet."""
    fresh = Registry.open(settings)
    assert not fresh.is_current()
    fresh.close()


def test_the_last_file_is_the_newest_revision() -> None:
    """A process that finds it in place loads no migration."""
    assert newest() == ScriptDirectory.from_config(alembic_config()).get_current_head()


def test_a_database_of_another_line_is_left_as_it_is(settings: ServiceSettings) -> None:
    """One that a development version has made, or a later release, is refused in a sentence that says what to do."""
    registry = Registry.open(settings)
    registry.migrate()
    engine = open_engine(settings.resolved_database_url)
    with engine.execution_options(writes=True).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0012'"))
    with pytest.raises(SystemExit, match=r"cannot read the database \(.*'0012'\): .*use that one, or an empty"):
        registry.migrate()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0012"
    engine.dispose()
    registry.close()


def test_tables_of_a_pre_release_become_todays(settings: ServiceSettings, tmp_path: Path) -> None:
    """A pre-release's database is refused with the command that helps, and has today's columns after the rewrite."""
    registry = Registry.open(settings)
    registry.migrate()
    engine = open_engine(settings.resolved_database_url)
    today = {column["name"] for column in sa.inspect(engine).get_columns("jobs")}
    with engine.execution_options(writes=True).begin() as connection:
        for change in (
            "RENAME COLUMN significant TO shown",
            "DROP COLUMN serves",
            "DROP COLUMN cancel_at",
            "DROP COLUMN beats_simpler",
            "ADD COLUMN promoted BOOLEAN",
        ):
            connection.execute(sa.text(f"ALTER TABLE jobs {change}"))
        connection.execute(sa.text("ALTER TABLE workers DROP COLUMN unfit"))
        for table in ("api_keys", "served_changes"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0018'"))
    with pytest.raises(SystemExit, match="run `fedlas migrate` once, which keeps a copy"):
        registry.migrate()
    assert registry.rewrite(tmp_path / "copy") == 0
    assert registry.is_current()
    assert {column["name"] for column in sa.inspect(engine).get_columns("jobs")} == today
    engine.dispose()
    registry.close()


@pytest.mark.embedded
def test_a_data_folder_of_a_pre_release_is_rewritten_and_answers(tmp_path: Path) -> None:
    """Records, reports and options have today's words, its files answer as they did, and the copy undoes all of it."""
    with tarfile.open(DATA / "data_of_2026_11_27.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    before, said = _database(tmp_path), json.loads((tmp_path / "predict.json").read_text())
    assert main(["migrate", "--data-dir", str(tmp_path)]) == 0
    settings = ServiceSettings(data_dir=tmp_path, allowed_hosts=frozenset({"testserver"}))
    with TestClient(create_app(settings).front) as client:
        jobs = client.get("/v1/jobs").json()["data"]
        words = [(job["verdict"], job["serves"], job["significant"], job["publish_when"]) for job in jobs]
        assert words == [
            ("trained", "calibrated", False, "significant"),
            ("post_hoc", "calibrated", True, "calibrated"),
        ]
        reports = [Report.model_validate_json(client.get(job["report_url"]).content) for job in jobs]
        assert [(report.serves, report.significant) for report in reports] == [one[1:3] for one in words]
        assert [claim.significant for claim in reports[0].gate.claims] == [True, True, False]
        assert client.get("/v1/calibrators").json()["data"][0]["report"]["serves"] == "calibrated"
        for kind in ("models", "datasets", "batches", "names"):
            assert client.get(f"/v1/{kind}").json()["data"], kind
        body = {"inputs": [[0.1, 0.2, 0.3, 0.4], [5, -5, 5, 5]], "coverage": 0.9}
        answer = client.post(f"/v1/models/{jobs[0]['calibrated_model_id']}/predict", json=body).json()
    for row in said["predictions"]:
        row["typicality"] = row.pop("familiarity")
    assert answer == said
    assert main(["restore", str(tmp_path / "before-0.1"), "--data-dir", str(tmp_path)]) == 0
    assert _database(tmp_path) == before


def _database(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "registry.sqlite")) as connection:
        return list(connection.iterdump())
