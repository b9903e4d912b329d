"""`/sign-in`: a key is entered once, and a session's cookie stands for it from then on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from service.web.origin import origin_of
from service.web.page_route import PageRoute
from service.web.paths import safe_return
from service.web.rendering import page, see_other
from service.web.session_access import COOKIE, session_id_of
from service.web.sessions import Sessions

router = APIRouter(include_in_schema=False, route_class=PageRoute)

Next = Annotated[str, Query(alias="next", max_length=2000)]


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
