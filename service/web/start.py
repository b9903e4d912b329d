"""`/`, where a model and its data are dropped; and `/sign-in`: a session's cookie stands for a key from then on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from service.api.plumbing.services import ServicesDep
from service.registry.registry import UnitOfWork
from service.web.forms import Sent
from service.web.jobs import ListedJob, listed
from service.web.orders import Choices
from service.web.rendering import page, see_other
from service.web.routes import PageRoute
from service.web.sessions import COOKIE, Sessions, origin_of, safe_return, session_id_of
from service.web.snippets import Caller, three_requests

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Jobs on the first page.
_NEWEST = 5

Next = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/")
async def start_page(request: Request, services: ServicesDep) -> Response:
    """The first page."""

    def read(unit: UnitOfWork) -> tuple[Choices, list[ListedJob]]:
        return Choices.read(unit), [listed(unit, row) for row in unit.jobs.newest(limit=_NEWEST, after=None)]

    choices, jobs = await services.read(read)
    caller = Caller("mine", origin_of(request, services.settings.allowed_hosts), bool(services.settings.api_keys))
    return page(
        request,
        "start/page.html.jinja",
        sent=Sent.nothing(),
        choices=choices,
        jobs=jobs,
        with_key=caller.with_key,
        requests=three_requests(caller),
    )


@router.get("/sign-in")
async def sign_in_page(request: Request, came_from: Next = "/") -> Response:
    """The form, or straight on where no key is needed."""
    if not _sessions(request).needed:
        return see_other(safe_return(came_from))
    return page(request, "signing_in/form.html.jinja", came_from=safe_return(came_from), wrong=False)


@router.post("/sign-in")
async def sign_in(request: Request, key: Annotated[str, Form(max_length=1000)] = "", came_from: Next = "/") -> Response:
    """Open a session, and go where the user came from."""
    sessions, there = _sessions(request), safe_return(came_from)
    session_id = await sessions.open(key.strip())
    if session_id is None:
        return page(request, "signing_in/form.html.jinja", status=401, came_from=there, wrong=True)
    answer = see_other(there)
    answer.set_cookie(
        COOKIE,
        session_id,
        max_age=int(sessions.seconds),
        httponly=True,
        samesite="lax",
        secure=_speaks_tls(request),
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    if session_id := session_id_of(request.scope):
        await _sessions(request).end(session_id)
    answer = see_other("/sign-in")
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=_speaks_tls(request))
    return answer


def _sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


def _speaks_tls(request: Request) -> bool:
    return origin_of(request, _sessions(request).other_hosts).startswith("https://")
