"""`/new`: from files to an order. The address names the records, so that a reload, or a colleague, sees the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from service.api.record_codes import RECORD_CODES
from service.api.services import ServicesDep
from service.web.api_calls import call_api
from service.web.awaited import WAIT_S, is_news
from service.web.file_forms import Sent, receive_files
from service.web.form_fields import FormState
from service.web.form_keys import FIELD, idempotency_key
from service.web.order_fields import order_of
from service.web.order_page import OrderPage
from service.web.page_route import PageRoute
from service.web.rendering import page, see_other

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Tells the part with the order that it may have become possible.
_INSPECTED = {"HX-Trigger": "inspected"}

Id = Annotated[str | None, Query(max_length=100)]
Part = Literal["model", "dataset", "order", "check"]


@router.get("/new")
async def order_page(
    request: Request, services: ServicesDep, model: Id = None, dataset: Id = None, check: Id = None
) -> Response:
    """What inspection has found, and the form of an order."""
    shown = await services.read(partial(OrderPage.read, model_id=model, dataset_id=dataset, check_id=check))
    return _page(request, shown)


@router.get("/new/{part}")
async def order_part(
    request: Request,
    services: ServicesDep,
    part: Part,
    model: Id = None,
    dataset: Id = None,
    check: Id = None,
    told: bool = False,
) -> Response:
    """One part of the page, as soon as the record that it is about is settled; see `awaited` for what comes before."""
    if awaited := {"model": model, "dataset": dataset, "check": check}.get(part):
        await services.long_poll.for_final(awaited, WAIT_S)
    shown = await services.read(partial(OrderPage.read, model_id=model, dataset_id=dataset, check_id=check))
    if awaited and not is_news(getattr(shown, part), told=told):
        return Response(status_code=204)
    template = f"orders/{part}.html.jinja"
    return await run_in_threadpool(_page, request, shown, template=template, headers=_INSPECTED)


@router.post("/new")
async def send_files(request: Request, services: ServicesDep) -> Response:
    """Make the records of a form's files; what is refused is shown with everything that was entered."""
    sent = await receive_files(request, services)
    model, dataset = sent["model"].record_id, sent["dataset"].record_id
    if not any(one.form.problem for one in sent.values()):
        return see_other(_address(model=model, dataset=dataset))
    shown = await services.read(partial(OrderPage.read, model_id=model, dataset_id=dataset, check_id=None))
    return _page(request, shown, sent=sent, status=422)


@router.post("/new/check")
async def check_order(request: Request, services: ServicesDep) -> Response:
    """A dry run of the order."""
    return await _order(request, services, dry_run=True)


@router.post("/new/order")
async def place_order(request: Request, services: ServicesDep) -> Response:
    """The order itself."""
    return await _order(request, services, dry_run=False)


async def _order(request: Request, services: ServicesDep, *, dry_run: bool) -> Response:
    fields = _texts(await request.form(max_files=0))
    model, dataset, check = (dict(fields).get(name) or None for name in ("model_id", "dataset_id", "check"))
    query = {"dry_run": "true"} if dry_run else None
    content = order_of(fields)
    key = idempotency_key(dict(fields).get(FIELD, ""), [content, dry_run])
    headers = {"Idempotency-Key": key} if key else None
    answer = await call_api(request, "POST", "/v1/jobs", query=query, content=content, headers=headers)
    if not answer.failed and dry_run:
        return see_other(f"{_address(model=model, dataset=dataset, check=answer.record_id())}#check")
    if not answer.failed:
        return see_other(f"/jobs/{answer.record_id()}")
    shown = await services.read(partial(OrderPage.read, model_id=model, dataset_id=dataset, check_id=check))
    form = FormState(dict(fields), answer.problem)
    return _page(request, shown, form=form, status=answer.status)


def _page(
    request: Request,
    shown: OrderPage,
    *,
    template: str = "orders/page.html.jinja",
    sent: dict[str, Sent] | None = None,
    form: FormState | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return page(
        request,
        template,
        status=status,
        headers=headers,
        shown=shown,
        sent=sent or Sent.nothing(),
        choices=shown.choices,
        form=form or shown.form,
        codes=RECORD_CODES,
    )


def _texts(fields: FormData) -> list[tuple[str, str]]:
    return [(name, value) for name, value in fields.multi_items() if isinstance(value, str)]


def _address(**records: str | None) -> str:
    return f"/new?{urlencode({name: value for name, value in records.items() if value})}"
