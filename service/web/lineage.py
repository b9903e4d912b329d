"""The lineage of a model: what it was made of, by which job, what was made of it, and where it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from service.registry import tables
from service.registry.contract import FINAL
from service.registry.unit_of_work import UnitOfWork

#: Jobs, and calibrated models, that are shown of one model.
MOST = 20


@dataclass(frozen=True)
class Ancestor:
    """A model or job that may have been deleted; without a name where it was."""

    id: str
    name: str | None

    @property
    def is_there(self) -> bool:
        """Whether there is still a page about it."""
        return self.name is not None


@dataclass(frozen=True)
class Descendant:
    """A job that was given the model, and what it has made of it: None where that is no model of its own."""

    job_id: str
    status: str
    verdict: str | None
    created_at: datetime
    model: Ancestor | None

    @property
    def is_open(self) -> bool:
        """Whether it may still make something of it."""
        return self.status not in FINAL


@dataclass(frozen=True)
class Lineage:
    """Where a model came from, what came of it, and the versions of names that it is.

    `orphans` are models that were made of it by jobs which have been deleted.
    """

    parent: Ancestor | None
    job: Ancestor | None
    descendants: Sequence[Descendant]
    orphans: Sequence[Ancestor]
    published: Sequence[tables.PublishedVersion]


def lineage_of(unit: UnitOfWork, row: tables.Model) -> Lineage:
    """All of it, as far as it is still there."""
    descendants = [_descendant(unit, job, row) for job in unit.jobs.of_model(row.id, limit=MOST)]
    known = {one.model.id for one in descendants if one.model}
    orphans = [Ancestor(made.id, made.name) for made in unit.models.made_of(row.id, limit=MOST) if made.id not in known]
    return Lineage(
        parent=None if row.parent_id is None else _model(unit, row.parent_id),
        job=None if row.job_id is None else Ancestor(row.job_id, None if row.job_deleted_at else row.job_id),
        descendants=descendants,
        orphans=orphans,
        published=unit.names.of_models([row.id]),
    )


def _descendant(unit: UnitOfWork, job: tables.Job, model: tables.Model) -> Descendant:
    made = job.calibrated_model_id
    return Descendant(
        job_id=job.id,
        status=job.status,
        verdict=job.verdict,
        created_at=job.created_at,
        model=None if made in (None, model.id) else _model(unit, made),
    )


def _model(unit: UnitOfWork, model_id: str) -> Ancestor:
    found = unit.models.find(model_id)
    return Ancestor(model_id, None if found is None else found.name)
