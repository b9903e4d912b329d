"""The first page and signing in, all other pages, and in front of them problems as pages: a refusal in sentences.

A page that refuses raises the errors of the domain, as the API does. The answer leaves the application as
`application/problem+json`, and becomes a page here, where a browser has asked for one.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, Query, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedlas.contract.error_codes import ERROR_CODES
from fedlas.contract.problems import Problem
from fedlas.contract.record_codes import RECORD_CODES
from service.api.plumbing.services import Services, ServicesDep
from service.http.access import headers_of
from service.registry.errors import NotFound
from service.registry.registry import UnitOfWork
from service.registry.repositories.records import ListFilter
from service.web import batches, calibrators, jobs, live, models, new_job, operations, rendering, settings, try_it
from service.web.forms import Sent
from service.web.jobs import ListedJob, listed
from service.web.live import LiveJobs
from service.web.new_job import Choices
from service.web.rendering import page, see_other
from service.web.routes import PageRoute
from service.web.sessions import COOKIE, Sessions, is_api_of_session, is_page, origin_of, safe_return, session_id_of
from service.web.snippets import Caller, three_requests

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Jobs on the first page.
_NEWEST = 5
_NO_DRY_RUN = ListFilter(dry_run=False)

Next = Annotated[str, Query(alias="next", max_length=2000)]
_KEPT = ("x-request-id", "retry-after", "allow", "www-authenticate")
_PAGES = (rendering, new_job, jobs, live, models, try_it, batches, calibrators, operations, settings)


def install(app: FastAPI, sessions: Sessions) -> None:
    services: Services = app.state.services
    app.state.sessions = sessions
    app.state.live_jobs = LiveJobs(services.registry, services.long_poll)
    for one in (router, *(module.router for module in _PAGES)):
        app.include_router(one)


class ProblemPagesMiddleware:
    """Answers a browser with a page in place of a problem; of pages that are loaded in part, with a part."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_shown = scope["type"] == "http" and is_page(scope["path"]) and not is_api_of_session(scope["path"])
        if not is_shown or scope["method"] == "HEAD" or b"text/html" not in headers_of(scope).get(b"accept", b""):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_or_hold(message: Message) -> None:
            nonlocal start, body
            is_start = message["type"] == "http.response.start"
            if is_start and "application/problem+json" in MutableHeaders(scope=message).get("content-type", ""):
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    await problem_page(Request(scope), start, body)(scope, receive, send)

        await self.app(scope, receive, send_or_hold)


def problem_page(request: Request, start: Message, body: bytes) -> ASGIApp:
    told = Problem.model_validate_json(body)
    path = request.url.path
    if told.status == 405 and request.method == "GET":  # a form's address that was reloaded or typed
        return see_other(path.rpartition("/")[0] or "/")
    if told.detail == told.title:  # the framework's own word for a path that leads nowhere
        told.detail = f"there is no page {path}"
    sent = MutableHeaders(scope=start)
    template = "problems/fragment.html.jinja" if "hx-request" in request.headers else "problems/page.html.jinja"
    return page(
        request,
        template,
        status=start["status"],
        headers={name: sent[name] for name in _KEPT if name in sent},
        problem=told,
        sent=request.method == "POST",
        request_id=sent.get("x-request-id"),
    )


@router.get("/errors/{code}")
def error_page(request: Request, code: str) -> Response:
    """The page of an error code, to which the `type` of a problem leads."""
    known = ERROR_CODES.get(code)
    if known is None and code not in RECORD_CODES:
        raise NotFound("not_found", f"there is no error code {code[:100]!r}")
    meaning, remedy = (known.meaning, known.remedy) if known else (RECORD_CODES[code], "")
    return page(request, "problems/code.html.jinja", code=code, meaning=meaning, remedy=remedy, known=known)


@router.get("/")
async def start_page(request: Request, services: ServicesDep) -> Response:
    def read(unit: UnitOfWork) -> tuple[Choices, list[ListedJob]]:
        return Choices.read(unit), [
            listed(unit, row) for row in unit.jobs.listed(_NO_DRY_RUN, limit=_NEWEST, after=None)
        ]

    choices, newest = await services.read(read)
    caller = Caller("mine", origin_of(request, services.settings.allowed_hosts), bool(services.settings.api_keys))
    return page(
        request,
        "start/page.html.jinja",
        sent=Sent.nothing(),
        choices=choices,
        jobs=newest,
        with_key=caller.with_key,
        requests=three_requests(caller),
    )


@router.get("/sign-in")
async def sign_in_page(request: Request, came_from: Next = "/") -> Response:
    if not _sessions(request).needed:
        return see_other(safe_return(came_from))
    return page(request, "signing_in/form.html.jinja", came_from=safe_return(came_from), wrong=False)


@router.post("/sign-in")
async def sign_in(request: Request, key: Annotated[str, Form(max_length=1000)] = "", came_from: Next = "/") -> Response:
    sessions, there = _sessions(request), safe_return(came_from)
    session_id = await sessions.open(key.strip())
    if session_id is None:
        return page(request, "signing_in/form.html.jinja", status=401, came_from=there, wrong=True)
    answer = see_other(there)
    answer.set_cookie(
        COOKIE, session_id, max_age=int(sessions.seconds), httponly=True, samesite="lax", secure=_speaks_tls(request)
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    if session_id := session_id_of(request.scope):
        await _sessions(request).end(session_id)
    answer = see_other("/sign-in")
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=_speaks_tls(request))
    return answer


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


def _speaks_tls(request: Request) -> bool:
    return origin_of(request, _sessions(request).other_hosts).startswith("https://")
