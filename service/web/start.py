"""`/`: where a model and its data are dropped."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.web.rendering import page

router = APIRouter(include_in_schema=False)


@router.get("/")
async def start_page(request: Request) -> Response:
    """The first page."""
    return page(request, "start/page.html.jinja")
