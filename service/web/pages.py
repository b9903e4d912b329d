"""The pages, one module each, and in front of them the problems as pages: what a browser is refused, in sentences.

A page that refuses raises the errors of the domain, as the API does. The answer leaves the application as
`application/problem+json`, and becomes a page here, where a browser has asked for one.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.plumbing.access import headers_of
from service.api.plumbing.problems import Problem
from service.api.plumbing.services import Services
from service.web import datasets, jobs, live, models, operations, orders, rendering, reports, start, try_it
from service.web.live import LiveJobs
from service.web.rendering import page, see_other
from service.web.sessions import Sessions, is_api_of_session, is_page

_PROBLEM = "application/problem+json"
_KEPT = ("x-request-id", "retry-after", "allow", "www-authenticate")


_PAGES = (rendering, start, orders, datasets, jobs, live, models, reports, try_it, operations)


def install(app: FastAPI, sessions: Sessions) -> None:
    """Add all pages."""
    services: Services = app.state.services
    app.state.sessions = sessions
    app.state.live_jobs = LiveJobs(services.registry, services.long_poll)
    for module in _PAGES:
        app.include_router(module.router)


class ProblemPagesMiddleware:
    """Answers a browser with a page in place of a problem; of pages that are loaded in part, with a part."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_shown(scope):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_or_hold(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _PROBLEM in MutableHeaders(scope=message).get(
                "content-type", ""
            ):
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    await problem_page(Request(scope), start, body)(scope, receive, send)

        await self.app(scope, receive, send_or_hold)


def problem_page(request: Request, start: Message, body: bytes) -> ASGIApp:
    """The page of one problem."""
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


def _is_shown(scope: Scope) -> bool:
    path = scope["path"]
    asks_for_page = b"text/html" in headers_of(scope).get(b"accept", b"")
    return scope["method"] != "HEAD" and is_page(path) and not is_api_of_session(path) and asks_for_page
