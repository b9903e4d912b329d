"""The routes of operations: `/healthz`, `/readyz`, `/metrics`, and the redirect to the documentation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from service.api.plumbing.declarations import operation
from service.api.plumbing.metrics import by_queue
from service.api.plumbing.probes import Probes
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.registry.queues import QUEUE_OF
from service.registry.repositories.workers import SILENT_S


@dataclass(frozen=True)
class Outcome:
    """The answer of one dependency, after so many seconds; `error` is the kind of the error, None where it is well."""

    name: str
    error: str | None
    seconds: float


async def outcomes(services: Services) -> list[Outcome]:
    """Outcomes of database, broker, storage and serving, in this order."""
    checks = {
        "database": services.registry.check,
        "broker": services.notifier.check,
        "storage": services.registry.artifacts.check,
        "serving": services.served_models.check,
    }
    return await asyncio.gather(*(_outcome(services.probes, name, check) for name, check in checks.items()))


async def _outcome(probes: Probes, name: str, check: Callable[[], None]) -> Outcome:
    began, failed = time.perf_counter(), None
    try:
        await probes.run(name, check)
    except Exception as error:  # any error is the answer
        failed = type(error).__name__
    return Outcome(name, failed, time.perf_counter() - began)


router = APIRouter(route_class=Route, tags=["operations"])


class Health(BaseModel):
    """The sign that the process answers."""

    status: Literal["ok"] = Field("ok", description="Always `ok`: the process answers.")


class Checks(BaseModel):
    """Dependencies of the service: `ok`, or `unavailable:` with the kind of the error."""

    database: str = Field(description="The database, which holds the records.")
    broker: str = Field(description="The broker, which wakes workers up.")
    storage: str = Field(description="The store, which holds the files.")
    serving: str = Field(description="The processes that answer predictions.")


class Readiness(BaseModel):
    """The state of all that requests need."""

    status: Literal["ready", "not_ready"] = Field(description="`ready`, or `not_ready` with 503.")
    checks: Checks = Field(description="The result for each dependency.")
    workers: dict[str, int] | None = Field(
        description="Living workers by the queue that they take from, for information only; null where it is not known."
    )
    uploads: str | None = Field(
        description="The reason why no upload can be opened, for example that no worker can load PyTorch; null if one "
        "can. Predictions go on without."
    )
    inference: str | None = Field(
        description="The execution provider of ONNX Runtime that predictions run on; null while there is none."
    )


@router.get("/healthz")
async def healthz() -> Health:
    """Check that the process answers."""
    return Health()


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Something cannot be reached."}},
)
async def readyz(services: ServicesDep) -> JSONResponse:
    """Check that the service is ready: database, broker, storage and serving; 503 with what cannot be reached."""
    checked, (workers, obstacle) = await asyncio.gather(outcomes(services), _workers(services))
    ready = all(one.error is None for one in checked)
    content = {
        "status": "ready" if ready else "not_ready",
        "checks": {one.name: "ok" if one.error is None else f"unavailable: {one.error}" for one in checked},
        "workers": workers,
        "uploads": obstacle,
        "inference": ", ".join(services.served_models.processes()) or None,
    }
    return JSONResponse(content, 200 if ready else 503)


async def _workers(services: Services) -> tuple[Mapping[str, int] | None, str | None]:
    def count() -> tuple[Mapping[str, int], str | None]:
        with services.registry.read() as unit:
            return by_queue(unit.workers.living(within_seconds=SILENT_S)), unit.workers.obstacle(QUEUE_OF["inspect"])

    try:
        return await services.probes.run("workers", count)
    except Exception:  # the checks name what is unavailable
        return None, None


@router.get(
    "/metrics",
    response_class=Response,
    openapi_extra=operation(
        content={name: {"schema": {"type": "string"}} for name in ("text/plain", "application/openmetrics-text")}
    ),
)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Return metrics for Prometheus: requests, times, batches, confidences per model and version, and processes."""
    headers = request.headers
    return await services.exposition.answer(headers.get("accept", ""), headers.get("accept-encoding", ""))
