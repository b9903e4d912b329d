"""The words of the first release in what a pre-release stored: columns, requests, profiles and reports.

`service.registry.migrate.rewrite` hands over `artifacts`, the stored files, `copy`, a folder for the reports as they
were, and `rewritten`, a list for the ids of those that were rewritten.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection

from service.registry.artifacts import ArtifactStore
from service.registry.errors import NotFound

revision = "0018a"
down_revision = "0018"

_PUBLISH_WHEN = {"shown": "significant", "promoted": "calibrated"}
_JSON = sa.JSON()
_MODELS = sa.table("models", sa.column("id"), sa.column("profile", _JSON))
_JOBS = sa.table("jobs", sa.column("id"), sa.column("request", _JSON), sa.column("report_sha256"))
_CALIBRATORS = sa.table("calibrators", sa.column("id"), sa.column("report", _JSON), sa.column("report_sha256"))


def upgrade() -> None:
    """Rewrite a database that has tables."""
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("jobs"):
        return
    for statement in (
        "ALTER TABLE jobs ADD COLUMN serves VARCHAR(16)",
        f"ALTER TABLE jobs ADD COLUMN cancel_at {sa.DateTime(timezone=True).compile(dialect=connection.dialect)}",
        "ALTER TABLE jobs RENAME COLUMN shown TO significant",
        "UPDATE jobs SET serves = CASE WHEN promoted THEN 'calibrated' ELSE 'uploaded' END WHERE verdict IS NOT NULL",
        "ALTER TABLE jobs DROP COLUMN promoted",
    ):
        op.execute(statement)
    _rename_in_rows(connection)
    handed = op.get_context().config.attributes  # type: ignore[union-attr]
    for table in (_JOBS, _CALIBRATORS):
        handed["rewritten"] += _rewrite_reports(connection, table, handed["artifacts"], handed["copy"])


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


def _rewrite_reports(connection: Connection, table: sa.TableClause, artifacts: ArtifactStore, copy: Path) -> list[str]:
    """Rewrite the stored reports of these records, and return whose; one that is lost or damaged stays so."""
    rows = connection.execute(sa.select(table.c.id, table.c.report_sha256).where(table.c.report_sha256.is_not(None)))
    rewritten = []
    for id_, digest in rows.all():
        with suppress(NotFound, ValueError), artifacts.held(digest) as path, artifacts.stage() as file:
            kept = copy / "artifacts" / digest[:2] / digest
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
            report = _renamed(json.loads(path.read_bytes()))
            file.write(json.dumps({"confidence_gap": _gaps(report), **report}, ensure_ascii=False).encode())
            connection.execute(table.update().where(table.c.id == id_).values(report_sha256=file.keep()))
            rewritten.append(id_)
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
