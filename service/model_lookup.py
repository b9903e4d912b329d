"""The lookup of models in the registry: the ready model that a published name or an id means."""

from __future__ import annotations

from collections.abc import Set

from anyio import CapacityLimiter, to_thread

from fedlas.contract.predictions import ServedModel
from service.model_repository import Profiles, ResolvedModel, version_number
from service.registry import tables
from service.registry.errors import Conflict, NotFound
from service.registry.registry import Registry, UnitOfWork

_THREADS = 4


class ModelLookup:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._profiles: Profiles = {}
        self._threads = CapacityLimiter(_THREADS)  # its own: answers wait for no other reader of the database

    async def __call__(self, called: str, version: str | None = None) -> ResolvedModel:
        """Look up in a thread; raises NotFound, Conflict."""
        return await to_thread.run_sync(self.look_up, called, version, limiter=self._threads)

    def served(self, digests: Set[str]) -> set[str]:
        """Subset of these served copies that a model has, in any thread."""
        with self._registry.read() as unit:
            return unit.models.served(digests)

    def look_up(self, called: str, version: str | None = None) -> ResolvedModel:
        """Read the registry, in any thread.

        Raises NotFound (`unknown_model`, `unknown_version`) or Conflict (`model_not_ready`, `model_unloaded`).
        """
        with self._registry.read() as unit:
            return _read(unit, called, version, self._profiles)


def _read(unit: UnitOfWork, called: str, version: str | None, profiles: Profiles) -> ResolvedModel:
    model_id, number, priors = _resolved(unit, called, version)
    row = unit.models.get(model_id)
    if number is None:
        number = row.version
        if version not in (None, str(number)):
            raise NotFound("unknown_version", f"{called!r} is version {number}, not {version}")
    if unit.names.is_unloaded(called):
        raise Conflict("model_unloaded", f"{called!r} was unloaded; POST /v2/repository/models/{called}/load first")
    if row.status != "ready" or row.profile is None or row.served_sha256 is None:
        message = f"{row.id} is {row.status}; only ready models predict"
        raise Conflict("model_not_ready", message, passing=row.status == "inspecting")
    # A name is answered with itself: behind it may be an upload, whose record has another name.
    name = row.name if called.startswith("mdl_") else called
    return ResolvedModel(
        called=called,
        version=str(number),
        model_id=row.id,
        digest=row.served_sha256,
        served=ServedModel(id=row.id, name=name, version=number, calibrated=row.calibrated).model_dump_json().encode(),
        recorded=row.profile,
        priors=priors,
        profiles=profiles,
    )


def _resolved(unit: UnitOfWork, called: str, version: str | None) -> tuple[str, int | None, dict[str, float] | None]:
    """Model id, version and class priors of a name or id; those of an id are its record's, so None here."""
    if called.startswith("mdl_"):
        return called, None, None
    try:
        published = unit.names.version(called, None if version is None else version_number(version))
        return published.model_id, published.version, published.class_priors
    except NotFound as error:
        if error.code == "unknown_version":
            raise
        raise NotFound("unknown_model", f"there is no model with the id or published name {called!r}") from None


def find_model(unit: UnitOfWork, id_or_name: str) -> tables.Model:
    """The model with this id or published name; raises NotFound."""
    return unit.models.get(id_or_name if id_or_name.startswith("mdl_") else unit.names.resolve(id_or_name))


def priors_of(unit: UnitOfWork, id_or_name: str) -> dict[str, float] | None:
    """The class priors that a published name answers for; None for an id."""
    return None if id_or_name.startswith("mdl_") else unit.names.version(id_or_name).class_priors
