"""`/healthz`, `/readyz` and the way to the documentation."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse, RedirectResponse

from service.api.dependencies import Parts, PartsDep
from service.inference.runtime import providers

router = APIRouter(tags=["operations"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(parts: PartsDep) -> JSONResponse:
    """Whether database, broker and storage can be reached; 503 with what is not."""
    checks = {name: _outcome(check) for name, check in _checks(parts).items()}
    ready = all(outcome == "ok" for outcome in checks.values())
    content = {"status": "ready" if ready else "not_ready", "checks": checks, "inference": providers()[0]}
    return JSONResponse(content, 200 if ready else 503)


def _checks(parts: Parts) -> dict[str, Callable[[], None]]:
    return {
        "database": parts.registry.check,
        "broker": parts.doorbell.check,
        "storage": parts.registry.artifacts.check,
    }


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # whatever it is, it is the answer
        return f"unavailable: {type(error).__name__}"
    return "ok"


@router.get("/", include_in_schema=False)
def index() -> RedirectResponse:
    """To the documentation, until there are pages for people."""
    return RedirectResponse("/docs")
