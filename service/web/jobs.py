"""`/jobs/{id}`: one calibration from its order to its verdict, and the forms that end it or delete it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from service.api.problems import Problem
from service.api.services import Services, ServicesDep
from service.web.api_calls import call_api
from service.web.job_view import FollowedJob
from service.web.job_words import order_sentences
from service.web.page_route import PageRoute
from service.web.rendering import page, see_other

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/jobs/{job_id}")
async def job_page(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The job as it is now."""
    return await _shown(request, services, job_id)


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, services: ServicesDep, job_id: str) -> Response:
    """Cancel it, and show what has become of it."""
    answer = await call_api(request, "POST", f"/v1/jobs/{job_id}/cancel")
    if answer.failed:
        return await _shown(request, services, job_id, refused=answer.problem)
    return see_other(f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/delete")
async def delete(request: Request, services: ServicesDep, job_id: str) -> Response:
    """Delete it, and show those that are left."""
    answer = await call_api(request, "DELETE", f"/v1/jobs/{job_id}")
    if answer.failed:
        return await _shown(request, services, job_id, refused=answer.problem)
    return see_other("/jobs")


async def _shown(request: Request, services: Services, job_id: str, *, refused: Problem | None = None) -> Response:
    view = await run_in_threadpool(FollowedJob(services.registry, job_id).view)
    return page(
        request,
        "jobs/page.html.jinja",
        view=view,
        order=order_sentences(view.job),
        refused=refused,
    )
