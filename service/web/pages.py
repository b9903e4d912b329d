"""The pages' routes, one module each, and the middleware in front of them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from service.api.services import Services
from service.web import (
    datasets,
    job_list,
    jobs,
    live,
    models,
    names,
    operations,
    orders,
    reports,
    signing_in,
    start,
    static_files,
    try_it,
)
from service.web.live_jobs import LiveJobs
from service.web.problem_pages import ProblemPagesMiddleware
from service.web.session_access import SessionMiddleware
from service.web.sessions import Sessions

_PAGES = (
    static_files,
    signing_in,
    start,
    orders,
    datasets,
    job_list,
    jobs,
    live,
    models,
    names,
    reports,
    try_it,
    operations,
)


def install(app: FastAPI, sessions: Sessions) -> None:
    """Add all pages."""
    services: Services = app.state.services
    app.state.sessions = sessions
    app.state.live_jobs = LiveJobs(services.registry, services.long_poll)
    for module in _PAGES:
        app.include_router(module.router)


def problem_pages() -> Middleware:
    """Outside of what gives answers their ids."""
    return Middleware(ProblemPagesMiddleware)


def session_access(sessions: Sessions) -> Middleware:
    """Before the keys are looked at."""
    return Middleware(SessionMiddleware, sessions=sessions)
