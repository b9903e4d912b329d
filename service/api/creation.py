"""How records come into being: files kept together with their rows, every creation answered once per key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel

from service.api.dependencies import Parts
from service.api.receiving import Arrived
from service.registry import tables
from service.registry.errors import InvalidRequest
from service.registry.ids import new_id
from service.registry.repositories.records import now
from service.registry.unit_of_work import UnitOfWork

IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, description="Kept 24 hours.")
]


@dataclass(frozen=True)
class Created:
    """What a creation came to: the answer's body, the ids to ring, and whether it was answered before."""

    answer: str
    ids: Sequence[str]
    replayed: bool


def create_once(
    parts: Parts,
    key: str | None,
    content: Sequence[str],
    make: Callable[[UnitOfWork], tuple[BaseModel, Sequence[str]]],
) -> Created:
    """Run `make` in one transaction and return its record as JSON, or the answer that this key was given before.

    `content` is what the key stands for: digests and options, not bytes with boundaries. Rings after the commit.
    """
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    with parts.registry.write() as unit:
        if key is not None and (answer := unit.keys.answer_of(key, fingerprint)) is not None:
            return Created(answer, (), replayed=True)
        record, ids = make(unit)
        answer = record.model_dump_json()
        if key is not None:
            unit.keys.keep(key, fingerprint, answer)
    parts.doorbell.ring(*ids)
    return Created(answer, ids, replayed=False)


def parse_json(text: str, field: str) -> Any:
    """Parse a JSON text that came as a query parameter or part; raises InvalidRequest."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"{field} is not valid JSON: {error}", field=field) from error


def add_dataset(unit: UnitOfWork, file: Arrived, name: str | None, options: dict[str, Any]) -> tables.Dataset:
    """Keep the file and insert the record; inspection is open work."""
    row = tables.Dataset(id=new_id("ds"), name=_named(name, "dataset"), options=options, **_fresh(unit, file))
    unit.datasets.add(row)
    unit.work.open(row.id)
    return row


def add_model(unit: UnitOfWork, file: Arrived, name: str | None, options: dict[str, Any]) -> tables.Model:
    """Keep the file and insert the record; inspection is open work."""
    row = tables.Model(
        id=new_id("mdl"), name=_named(name, "model"), origin="uploaded", options=options, **_fresh(unit, file)
    )
    unit.models.add(row)
    unit.work.open(row.id)
    return row


def add_calibrator(
    unit: UnitOfWork, file: Arrived, name: str | None, method: str, options: dict[str, Any]
) -> tables.Calibrator:
    """Keep the scores and insert the record; fitting is open work."""
    fresh = {**_fresh(unit, file), "status": "running"}
    row = tables.Calibrator(id=new_id("cal"), name=_named(name, "calibrator"), method=method, options=options, **fresh)
    unit.calibrators.add(row)
    unit.work.open(row.id)
    return row


def _fresh(unit: UnitOfWork, file: Arrived) -> dict[str, Any]:
    # Kept inside the transaction: a deletion of the same content cannot come between file and record.
    return {"sha256": file.keep(unit), "bytes": file.size, "status": "inspecting", "created_at": now()}


def _named(name: str | None, otherwise: str) -> str:
    cleaned = "".join(character for character in name or "" if character.isprintable()).strip()
    return cleaned[:200] or otherwise
