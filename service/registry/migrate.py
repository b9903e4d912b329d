"""Migration of the tables with Alembic, from scripts that ship inside the package, and of what a pre-release stored.

Alembic, 11 MB in memory, is loaded only where the newest revision is not in place.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from service.registry.artifacts import ArtifactStore
from service.registry.backups import dump, seal
from service.registry.database import REVISIONS, SCRIPTS, newest, revision
from service.registry.errors import NotFound

if TYPE_CHECKING:
    from alembic.config import Config

#: A migration may pause for longer than any other writer, who would keep the others waiting.
_IDLE_TIMEOUT_S = 60
#: Revisions of pre-releases: of 2026-11-27 and of 2026-11-28. `rewrite` reads them.
_PRE_RELEASES = ("0017", "0018")
#: The revision that it makes of them; what has changed since is migrated as that of any database.
_REWRITTEN = "0019"
_PUBLISH_WHEN = {"shown": "significant", "promoted": "calibrated"}
_JSON = sa.JSON()
_MODELS = sa.table("models", sa.column("id"), sa.column("profile", _JSON))
_JOBS = sa.table("jobs", sa.column("id"), sa.column("request", _JSON), sa.column("report_sha256"))
_CALIBRATORS = sa.table("calibrators", sa.column("id"), sa.column("report", _JSON), sa.column("report_sha256"))


def is_current(engine: Engine) -> bool:
    """Compare the revision of the database with the newest one."""
    return revision(engine) == newest()


def migrate(engine: Engine) -> None:
    """Upgrade to the newest revision; one process at a time, within one transaction.

    Raises SystemExit for a database of another line of revisions.
    """
    from alembic import command
    from alembic.util import CommandError

    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":  # a busy machine takes seconds to load a script between statements
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'")
        config = alembic_config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            cause = "another version made it: use that one, or an empty data folder and database"
            if revision(engine) in _PRE_RELEASES:
                cause = "a pre-release made it: stop everything, and run `fedlas migrate` once, which keeps a copy"
            raise SystemExit(f"this release cannot read the database ({error}): {cause}") from None


def rewrite(engine: Engine, artifacts: ArtifactStore, copy: Path) -> int:
    """Bring what a pre-release stored to this release's tables and words; returns the number of rewritten reports.

    Args:
        copy: the folder for a backup of the database and of the reports as they were, which undoes the rewrite.

    Raises:
        SystemExit: the database has no tables, or is of another line of revisions.
        BackupRefused: it cannot be dumped.
    """
    number = revision(engine)
    if number is None:
        raise SystemExit("nothing is migrated: the database has no tables")
    if number not in _PRE_RELEASES:  # a rewrite that was killed when it had committed, or none
        migrate(engine)
        return 0
    aside = copy.with_name(f"{copy.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with engine.connect() as connection:
        dump(connection, aside)
    with engine.execution_options(writes=True).begin() as connection:
        _alter_tables(connection, number)
        _rename_in_rows(connection)
        reports = sum(_rewrite_reports(connection, table, artifacts, aside) for table in (_JOBS, _CALIBRATORS))
        connection.execute(text(f"UPDATE {REVISIONS} SET version_num = '{_REWRITTEN}'"))
        seal(aside, number)
        shutil.rmtree(copy, ignore_errors=True)  # of a rewrite that was undone, or did not get through
        os.replace(aside, copy)
    migrate(engine)
    return reports


def _alter_tables(connection: Connection, number: str) -> None:
    statements = [
        "ALTER TABLE jobs ADD COLUMN serves VARCHAR(16)",
        f"ALTER TABLE jobs ADD COLUMN cancel_at {sa.DateTime(timezone=True).compile(dialect=connection.dialect)}",
        "ALTER TABLE jobs RENAME COLUMN shown TO significant",
        "UPDATE jobs SET serves = CASE WHEN promoted THEN 'calibrated' ELSE 'uploaded' END WHERE verdict IS NOT NULL",
        "ALTER TABLE jobs DROP COLUMN promoted",
    ]
    if number == "0017":
        statements += [
            "ALTER TABLE jobs ADD COLUMN predictions_sha256 VARCHAR(64)",
            "CREATE INDEX ix_jobs_predictions_sha256 ON jobs (predictions_sha256)",
            "ALTER TABLE work DROP COLUMN requires",
        ]
    for statement in statements:
        connection.execute(text(statement))


def _rename_in_rows(connection: Connection) -> None:
    for id_, profile in connection.execute(sa.select(_MODELS.c.id, _MODELS.c.profile)).all():
        if profile and "familiarity" in profile:
            new = {"typicality" if name == "familiarity" else name: value for name, value in profile.items()}
            connection.execute(_MODELS.update().where(_MODELS.c.id == id_).values(profile=new))
    for id_, request in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.request)).all():
        if (when := request.get("publish_when")) in _PUBLISH_WHEN:
            new = {**request, "publish_when": _PUBLISH_WHEN[when]}
            connection.execute(_JOBS.update().where(_JOBS.c.id == id_).values(request=new))
    for id_, report in connection.execute(sa.select(_CALIBRATORS.c.id, _CALIBRATORS.c.report)).all():
        if report:
            connection.execute(_CALIBRATORS.update().where(_CALIBRATORS.c.id == id_).values(report=_renamed(report)))


def _rewrite_reports(connection: Connection, table: sa.TableClause, artifacts: ArtifactStore, copy: Path) -> int:
    """Rewrite the stored reports of these records, and return how many; one that is lost or damaged stays so."""
    rows = connection.execute(sa.select(table.c.id, table.c.report_sha256).where(table.c.report_sha256.is_not(None)))
    rewritten = 0
    for id_, digest in rows.all():
        with suppress(NotFound, ValueError), artifacts.held(digest) as path, artifacts.stage() as file:
            kept = copy / "artifacts" / digest[:2] / digest
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
            report = _renamed(json.loads(path.read_bytes()))
            file.write(json.dumps({"confidence_gap": _gaps(report), **report}, ensure_ascii=False).encode())
            connection.execute(table.update().where(table.c.id == id_).values(report_sha256=file.keep()))
            rewritten += 1
    return rewritten


def _renamed(report: dict[str, Any]) -> dict[str, Any]:
    """The words of a report, of its gate and of the gate's claims, renamed; everything else stays."""
    new = {"significant" if name == "shown" else name: value for name, value in report.items() if name != "promoted"}
    if "promoted" in report:
        new["serves"] = "calibrated" if report["promoted"] else "uploaded"
    if "gate" in report:
        new["gate"] = _renamed(report["gate"])
    if "claims" in report:
        new["claims"] = [_renamed(claim) for claim in report["claims"]]
    return new


def _gaps(report: dict[str, Any]) -> dict[str, Any]:
    """The section `confidence_gap`, which reports of 2026-11-27 lack, without errors: these were not computed."""
    return {
        name: {
            "test": {
                "mean_confidence": confidence["mean_confidence"],
                "accuracy": confidence["accuracy"],
                "gap": confidence["mean_confidence"] - confidence["accuracy"],
                "standard_error": None,
                "num_rows": report["num_test_rows"],
            },
            "out_of_fold": None,
        }
        for name, confidence in report["confidence"].items()
    }


def alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config
