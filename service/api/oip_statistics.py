"""Triton's statistics extension, `/v2/…/stats`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from service.api.document.declarations import operation
from service.api.oip_repository import listed
from service.api.oip_schemas import Statistics
from service.api.routing import Route
from service.api.services import Services, ServicesDep
from service.inference.counters import Totals
from service.registry.documents import JsonObject


async def _counted(services: ServicesDep) -> None:
    await services.served_models.count()


#: Before that of `/v2/models/{model}`: no model is called `stats`.
router = APIRouter(
    route_class=Route, prefix="/v2/models", tags=["inference protocol"], dependencies=[Depends(_counted)]
)


async def _version(request: Request) -> str | None:
    version: str | None = request.path_params.get("version")
    return version


#: Of a function that answers two paths: the version that the path names, None in the one without.
Version = Annotated[str | None, Depends(_version)]
#: Codes of what a path under `/v2` names.
NAMED = ("unknown_model", "unknown_version", "model_not_ready", "model_unloaded")
_VERSION_IN_PATH: JsonObject = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "A number of the name's `versions`.",
    "schema": {"type": "string", "title": "Version"},
}


def with_version(*codes: str) -> JsonObject:
    """How the path with a version is documented, of a function that answers two."""
    more: JsonObject = {"parameters": [_VERSION_IN_PATH], "description": "The same of one version."}
    return operation(*codes, more=more)


#: Each is about 1 KB.
_MOST_TOLD = 1000


@router.get("/stats", response_model=Statistics, name="all_statistics")
def all_statistics(services: ServicesDep) -> JsonObject:
    """Statistics of the models that were asked for anything, and zeros of others that answer: 1,000 together."""
    found = services.metrics.all_totals()
    with services.registry.read() as unit:
        ready = {(str(item["name"]), str(item["version"])) for item in listed(unit, only_ready=True)}
    silent = sorted(ready - found.keys())[: max(0, _MOST_TOLD - len(found))]
    totals = {call: Totals.of(()) for call in silent} | found
    return {"model_stats": [_statistics(name, version, counted) for (name, version), counted in totals.items()]}


@router.get("/{model}/stats", response_model=Statistics, name="model_statistics", openapi_extra=operation(*NAMED))
@router.get(
    "/{model}/versions/{version}/stats",
    response_model=Statistics,
    name="model_statistics_of_version",
    openapi_extra=with_version(*NAMED),
)
def statistics(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Requests, rows and times since the service began, of all versions or of one."""
    number = services.look_up.look_up(model, version).version
    if version is not None:
        return {"model_stats": [_statistics(model, number, services.metrics.totals(model, number))]}
    counted, none = services.metrics.all_totals(), Totals.of(())
    newest = versions_of(services, model, number)[-_MOST_TOLD:]
    return {"model_stats": [_statistics(model, found, counted.get((model, found), none)) for found in newest]}


def versions_of(services: Services, model: str, own: str) -> list[str]:
    """All versions of a name; an id has one, its `own`."""
    if model.startswith("mdl_"):
        return [own]
    with services.registry.read() as unit:
        return list(unit.names.get(model).versions)


def _statistics(name: str, version: str, totals: Totals) -> JsonObject:
    """In Triton's shape; times are nanoseconds."""

    def spent(count: int, seconds: float) -> JsonObject:
        return {"count": count, "ns": round(seconds * 1e9)}

    not_measured = spent(0, 0)
    return {
        "name": name,
        "version": version,
        "last_inference": totals.last_request_at,
        "inference_count": totals.rows,
        "execution_count": totals.batches,
        "inference_stats": {
            "success": spent(totals.requests_ok, totals.request_seconds),
            "fail": spent(totals.requests_failed, totals.failed_seconds),
            "queue": spent(totals.batched_requests, totals.queue_seconds),
            "compute_input": not_measured,
            "compute_infer": spent(totals.batches, totals.compute_seconds),
            "compute_output": not_measured,
            "cache_hit": not_measured,
            "cache_miss": not_measured,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": not_measured,
                "compute_infer": spent(count, seconds),
                "compute_output": not_measured,
            }
            for rows, (count, seconds) in sorted(totals.batch_sizes.items())
        ],
    }
