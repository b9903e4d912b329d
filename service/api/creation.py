"""Creation of records with a file: the file is kept in the transaction of its row."""

from __future__ import annotations

from typing import Any

from service.api.receiving import ReceivedFile
from service.registry import tables
from service.registry.documents import JsonObject
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork


def add_dataset(unit: UnitOfWork, file: ReceivedFile, name: str | None, options: JsonObject) -> tables.Dataset:
    """Keep the file and insert the record; inspection is open work."""
    row = tables.Dataset(id=new_id("ds"), name=_named(name, "dataset"), options=options, **_fresh(unit, file))
    unit.datasets.add(row)
    unit.work.open(row.id)
    return row


def add_model(unit: UnitOfWork, file: ReceivedFile, name: str | None, options: JsonObject) -> tables.Model:
    """Keep the file and insert the record; inspection is open work."""
    row = tables.Model(
        id=new_id("mdl"), name=_named(name, "model"), origin="uploaded", options=options, **_fresh(unit, file)
    )
    unit.models.add(row)
    unit.work.open(row.id)
    return row


def add_calibrator(
    unit: UnitOfWork, file: ReceivedFile, name: str | None, method: str, options: JsonObject
) -> tables.Calibrator:
    """Keep the scores and insert the record; fitting is open work."""
    fresh = {**_fresh(unit, file), "status": "running"}
    row = tables.Calibrator(id=new_id("cal"), name=_named(name, "calibrator"), method=method, options=options, **fresh)
    unit.calibrators.add(row)
    unit.work.open(row.id)
    return row


def still_inspecting(*rows: tables.Model | tables.Dataset) -> bool:
    """Whether work on these is blocked."""
    return any(row.status == "inspecting" for row in rows)


def _fresh(unit: UnitOfWork, file: ReceivedFile) -> dict[str, Any]:
    # Kept inside the transaction: a deletion of the same content cannot come between file and record.
    return {"sha256": file.keep(unit), "bytes": file.size, "status": "inspecting", "created_at": now()}


def _named(name: str | None, otherwise: str) -> str:
    cleaned = "".join(character for character in name or "" if character.isprintable()).strip()
    return cleaned[:200] or otherwise
