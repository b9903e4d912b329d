"""The model that a client names: by its id, or by a published name."""

from __future__ import annotations

from service.registry import tables
from service.registry.unit_of_work import UnitOfWork


def find_model(unit: UnitOfWork, id_or_name: str) -> tables.Model:
    """The model with this id or published name; raises NotFound."""
    model_id = id_or_name if id_or_name.startswith("mdl_") else unit.names.resolve(id_or_name)
    return unit.models.get(model_id)


def priors_of(unit: UnitOfWork, id_or_name: str) -> dict[str, float] | None:
    """The class priors that a published name answers for; None for an id."""
    return None if id_or_name.startswith("mdl_") else unit.names.version(id_or_name).class_priors
