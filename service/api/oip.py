"""`/v2`: the Open Inference Protocol, but for inference itself, which `serving` answers.

With the extensions of Triton's that its clients call: repository, statistics, configuration.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, JsonValue
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import Parts, PartsDep
from service.api.oip_schemas import INFER_BODY, InferResponse
from service.inference.counts import Totals
from service.inference.oip.metadata import model_config, model_metadata, server_metadata
from service.registry.errors import Conflict, InvalidRequest, NotFound
from service.registry.unit_of_work import UnitOfWork

#: Clients of Triton send JSON without saying so.
router = APIRouter(prefix="/v2", tags=["open inference protocol"], strict_content_type=False)

Json = dict[str, Any]
_PAGE = 1000


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: bool = False


class Parameters(BaseModel):
    """What Triton's clients send along with `load` and `unload`."""

    parameters: dict[str, JsonValue] = {}


@router.get("")
async def server() -> Json:
    """Who serves, and which extensions."""
    return server_metadata(version_of("fedlas"))


@router.get("/health/live")
async def live() -> Json:
    """Whether the process answers."""
    return {"live": True}


@router.get("/health/ready")
async def ready(parts: PartsDep) -> JSONResponse:
    """Whether models can be found and opened; 503 where they cannot."""
    try:
        await parts.probes.ask("database", parts.registry.check)
        await parts.probes.ask("storage", parts.registry.artifacts.check)
    except Exception:  # whatever it is, it is the answer
        return JSONResponse({"ready": False}, 503)
    return JSONResponse({"ready": True})


@router.get("/models")
def list_served(parts: PartsDep) -> Json:
    """The names and ids that answer, as KServe lists them."""
    return {"models": list(dict.fromkeys(item["name"] for item in index(parts, IndexRequest(ready=True))))}


@router.get("/models/stats")
def all_statistics(parts: PartsDep) -> Json:
    """Statistics of every model that was asked for anything."""
    found = parts.metrics.all_totals()
    return {"model_stats": [_statistics(name, version, totals) for (name, version), totals in found.items()]}


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
def metadata(parts: PartsDep, model: str, version: str | None = None) -> Json:
    """Inputs, outputs and versions."""
    target = parts.catalogue.look_up(model, version)
    return model_metadata(target.profile, model, _versions(parts, model, target.version))


@router.post("/models/{model}/infer", response_model=InferResponse, openapi_extra=INFER_BODY)
@router.post("/models/{model}/versions/{version}/infer", response_model=InferResponse, openapi_extra=INFER_BODY)
async def infer(model: str, version: str | None = None) -> None:
    """Infer; with `Inference-Header-Content-Length`, tensors lie in binary behind so many bytes of JSON."""
    raise AssertionError("declared here, answered by the serving lane before any router")


@router.get("/models/{model}/config")
@router.get("/models/{model}/versions/{version}/config")
async def config(parts: PartsDep, model: str, version: str | None = None) -> Json:
    """The same in Triton's words; `instance_group` says what it really runs on, once it is open."""
    target = await run_in_threadpool(parts.catalogue.look_up, model, version)
    line = parts.engine.opened(target.digest)
    provider = None if line is None else line.model.provider
    return model_config(target.profile, model, max_rows=parts.settings.max_predict_rows, provider=provider)


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
def model_ready(parts: PartsDep, model: str, version: str | None = None) -> JSONResponse:
    """Whether it answers; 503 while it is inspected, or was unloaded."""
    try:
        parts.catalogue.look_up(model, version)
    except Conflict:
        return JSONResponse({"name": model, "ready": False}, 503)
    return JSONResponse({"name": model, "ready": True})


@router.get("/models/{model}/stats")
@router.get("/models/{model}/versions/{version}/stats")
def statistics(parts: PartsDep, model: str, version: str | None = None) -> Json:
    """Requests, rows and times since the process began; of all versions, or of one."""
    target = parts.catalogue.look_up(model, version)
    versions = [target.version] if version else _versions(parts, model, target.version)
    found = [_statistics(model, number, parts.metrics.totals(model, number)) for number in versions]
    return {"model_stats": found}


@router.post("/repository/index")
def index(parts: PartsDep, body: IndexRequest | None = None) -> list[Json]:
    """All published names with their versions, and all models by their ids."""
    with parts.registry.read() as unit:
        listed = [*_names(unit), *_models(unit)]
    return [item for item in listed if item["state"] == "READY" or body is None or not body.ready]


@router.post("/repository/models/{model}/load", response_class=Response)
async def load(parts: PartsDep, model: str, body: Parameters | None = None) -> Response:
    """Put a name or id into service again; answers once it is open and warm."""
    given = sorted(body.parameters) if body else []
    if given:
        found = f"found the parameters {', '.join(given)}"
        raise InvalidRequest("invalid_request", f"a stored model is loaded as it is; {found}, needed is none")

    def write() -> None:
        with parts.registry.write() as unit:
            _check_exists(unit, model)
            unit.names.load(model)

    await parts.in_turn(write)
    parts.catalogue.forget()
    await parts.catalogue.find(model)
    return JSONResponse({})


@router.post("/repository/models/{model}/unload", response_class=Response)
async def unload(parts: PartsDep, model: str, body: Parameters | None = None) -> Response:
    """Take a name or id out of service until it is loaded again; requests that have begun are still answered."""

    def write() -> None:
        with parts.registry.write() as unit:
            _check_exists(unit, model)
            unit.names.unload(model)

    await parts.in_turn(write)
    parts.catalogue.forget()
    parts.catalogue.drop(model)
    return JSONResponse({})


def _check_exists(unit: UnitOfWork, model: str) -> None:
    if model.startswith("mdl_"):
        unit.models.get(model)
        return
    try:
        unit.names.get(model)
    except NotFound:
        raise NotFound("unknown_model", f"there is no model with the id or published name {model!r}") from None


def _versions(parts: Parts, model: str, own: str) -> list[str]:
    if model.startswith("mdl_"):
        return [own]
    with parts.registry.read() as unit:
        return list(unit.names.get(model).versions)


def _names(unit: UnitOfWork) -> list[Json]:
    unloaded = unit.names.unloaded()
    return [
        _state(record.name, version, unloaded=record.name in unloaded)
        for record in unit.names.all()
        for version in record.versions
    ]


def _models(unit: UnitOfWork) -> list[Json]:
    unloaded, listed, after, more = unit.names.unloaded(), [], None, True
    while more:
        rows, more = unit.models.page(limit=_PAGE, after=after)
        for row in rows:
            state = _state(row.id, str(row.version), unloaded=row.id in unloaded)
            if row.status == "inspecting":
                state |= {"state": "LOADING", "reason": "it is being inspected"}
            elif row.status == "rejected":
                state |= {"state": "UNAVAILABLE", "reason": (row.error or {}).get("message", "rejected by inspection")}
            listed.append(state)
            after = row.id
    return listed


def _state(name: str, version: str, *, unloaded: bool) -> Json:
    if unloaded:
        return {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "unloaded"}
    return {"name": name, "version": version, "state": "READY", "reason": ""}


def _statistics(name: str, version: str, totals: Totals) -> Json:
    """In Triton's shape; times are nanoseconds."""

    def spent(count: int, seconds: float) -> Json:
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
