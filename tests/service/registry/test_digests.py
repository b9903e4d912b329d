"""The columns that name a stored file are read from the tables themselves, so that none is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from service.registry import tables
from service.registry.registry import Registry
from service.registry.settings import WorkerSettings
from service.registry.tables import new_id, now
from tests.helpers import uploads as made
from tests.helpers.staging import stage_bytes
from tests.helpers.work import execute
from worker.outside.supervisor import Supervisor

NAMED = {
    "batches.manifest_sha256", "batches.results_sha256",
    "calibrators.diagram_sha256", "calibrators.onnx_sha256", "calibrators.page_sha256",
    "calibrators.report_sha256", "calibrators.sha256", "checkpoints.sha256",
    "datasets.prepared_sha256", "datasets.sha256", "jobs.diagram_sha256", "jobs.page_sha256",
    "jobs.predictions_sha256", "jobs.report_sha256",
    "models.seen_rows_sha256", "models.served_sha256", "models.sha256", "pieces.sha256",
}  # fmt: skip


def test_the_columns_of_today_are_found() -> None:
    """All of them, each with an index; the ledger of looks keeps no file, for it outlives the dataset."""
    found = {str(column): column for column in tables.digest_columns()}
    assert set(found) == NAMED
    assert all(column.index for column in found.values())


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (sa.Column("thumbnail", tables.Digest), True),
        (sa.Column("page_sha256", sa.String(64)), True),
        (sa.Column("log_digest", sa.String(64)), True),
        (sa.Column("name", sa.String(64)), False),
        (sa.Column("old_sha256", tables.Digest, info={tables.KEEPS_FILE: False}), False),
        (sa.Column("named_oddly", sa.String(64), info={tables.KEEPS_FILE: True}), True),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_new_column_of_any_table_is_found(column: sa.Column[Any], *, found: bool) -> None:
    """A column is found by its type, or by its name where the type is missing; only one that says so keeps no file."""
    metadata = sa.MetaData()
    for table in tables.Base.metadata.sorted_tables:
        table.to_metadata(metadata)
    sa.Table("novelties", metadata, sa.Column("id", sa.String(40), primary_key=True), column)
    added = {str(one) for one in tables.digest_columns(metadata)} - NAMED
    assert added == ({f"novelties.{column.name}"} if found else set())


def filled(column: sa.Column[Any], digest: str) -> dict[str, Any]:
    """A row of the column's table that names this file in this column only."""
    fillers: dict[type, Any] = {
        sa.String: "x", tables.Digest: "x", sa.BigInteger: 1, sa.Integer: 1, sa.Boolean: False, sa.JSON: {},
        tables.UtcDateTime: now(),
    }  # fmt: skip
    needed = [other for other in column.table.columns if not other.nullable and other.default is None]
    keys = {other.name: digest[:40] for other in column.table.primary_key}
    return {**{other.name: fillers[type(other.type)] for other in needed}, **keys, column.name: digest}


def test_each_column_keeps_its_file(registry: Registry) -> None:
    """A file that only one column names, whichever it is, is named, for the sweeper as for a deletion."""
    for number, column in enumerate(tables.digest_columns()):
        digest = f"{number:02x}" * 32
        with registry.write() as unit:
            assert unit.datasets.referenced([digest]) == set()
            unit.session.execute(sa.insert(column.table).values(filled(column, digest)))
            assert unit.datasets.is_referenced(digest), column
            assert unit.models.referenced([digest, "f" * 64]) == {digest}


def test_no_file_is_named_in_json_alone(registry: Registry, tmp_path: Any) -> None:
    """After inspections by real children no profile, option or other document names a stored file."""
    options = dict.fromkeys(("format", "roles", "padding", "seen_by_model")) | {"split_seed": 0, "missing": "reject"}
    model_options = dict.fromkeys(("output", "features", "task", "class_names", "positive_class"))
    contents = {"ds": made.digits_npz(), "mdl": made.text_model()}
    kept = {}
    for prefix, content in contents.items():
        with stage_bytes(registry.artifacts, content) as staged:
            kept[prefix] = {"sha256": staged.keep(), "bytes": len(content), "status": "inspecting", "created_at": now()}
    data = tables.Dataset(id=new_id("ds"), name="d", options=options, **kept["ds"])
    model = tables.Model(id=new_id("mdl"), name="m", origin="uploaded", options=model_options, **kept["mdl"])
    with registry.write() as unit:
        for repository, row in ((unit.datasets, data), (unit.models, model)):
            repository.add(row)  # type: ignore[attr-defined]
            unit.work.open(row.id)
    supervisor = Supervisor(WorkerSettings(data_dir=tmp_path / "data"), registry, name="w")
    for row in (data, model):
        execute(supervisor, registry, row.id)
    stored = {file.digest for file in registry.artifacts.listed(limit=100)}
    assert len(stored) >= 3
    with registry.read() as unit:
        assert unit.datasets.referenced(stored) == stored
        documents = [
            str(value)
            for table in tables.Base.metadata.sorted_tables
            for row in unit.session.execute(sa.select(table)).mappings()
            for column, value in row.items()
            if isinstance(table.columns[column].type, sa.JSON)
        ]
    assert documents
    assert not [digest for digest in stored for document in documents if digest in document]
