"""`/calibrators`: a file of scores is dropped, and its page says what may be accepted by itself.

The page is drawn from the stored figures, as those of jobs are: none of the markup that a worker stored gets here. A
calibrator of logits or probabilities has the report of a model's calibration.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from shlex import quote as in_shell

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from fedlas.contract.base import JsonObject
from fedlas.contract.options import ScoresPart
from fedlas.contract.problems import Problem
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.scores import ScoreReport
from fedlas.scores.page import score_svg, thresholds
from service.api.plumbing.idempotency import Key, create_once
from service.api.plumbing.options import read_options, stored_options
from service.api.plumbing.receiving import receive_parts, take_part
from service.api.plumbing.responses import After, cursor
from service.api.plumbing.services import Services, ServicesDep
from service.api.resources.calibrators import add_calibrator
from service.registry.errors import InvalidRequest, RegistryError
from service.registry.presenters import calibrator_record
from service.web.forms import FIELD, FormState, idempotency_key, number_or_text, problem_for
from service.web.jobs import NOT_DRAWN, report_page
from service.web.rendering import page, see_other
from service.web.routes import ROWS, WAIT_S, PageRoute, acted, is_news, list_page
from service.web.sessions import origin_of
from service.web.snippets import Caller

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_LOG = logging.getLogger(__name__)
#: Most fits end within this time, so that a browser without scripts need not reload.
_FITTED_S = 5.0


@router.get("/calibrators")
async def list_calibrators(request: Request, services: ServicesDep, after: After = None) -> Response:
    records = await services.read(
        lambda unit: [
            calibrator_record(unit, row)
            for row in unit.calibrators.newest(limit=ROWS + 1, after=cursor(after or None, "cal"))
        ]
    )
    return page(request, "calibrators/list.html.jinja", shown=list_page(request, records, lambda one: one.id))


@router.get("/calibrators/new")
def show_form(request: Request) -> Response:
    return page(request, "calibrators/new.html.jinja", form=FormState())


@router.post("/calibrators/new")
async def send_scores(request: Request, services: ServicesDep) -> Response:
    """Make the record of a form's file, as the API does; what is refused is shown with what was entered."""
    with ExitStack() as stack:
        sent = await receive_parts(request, services, stack, files=("file",))
        entered = sent.texts()
        try:
            options = _options(entered)
            if not sent.files.get("file", (None, ""))[1]:  # browsers send a nameless part where no file was chosen
                raise InvalidRequest("missing_part", "choose a file", field="file")
            file = await take_part(sent, "file", services, stack, upload_id=None)
            content = [file.fingerprint, options.model_dump_json()]
            answer = await create_once(
                services,
                Key.of("forms", idempotency_key(entered.get(FIELD, ""), list(content))),
                content,
                lambda unit: calibrator_record(unit, add_calibrator(unit, file, options, stored_options(options))),
            )
        except (RegistryError, ValidationError) as error:
            form = FormState(entered, problem := problem_for(request.url.path, error))
            return page(request, "calibrators/new.html.jinja", status=problem.status, form=form)
    record_id: str = json.loads(answer.record)["id"]
    await services.long_poll.for_final(record_id, _FITTED_S)
    return see_other(f"/calibrators/{record_id}")


def _options(entered: Mapping[str, str]) -> ScoresPart:
    given = {name: text for name, text in entered.items() if text.strip()}
    promise: JsonObject = {name: _share(name, given[name]) for name in ("max_error", "confidence") if name in given}
    texts = {name: given.get(name, "").strip() or None for name in ("slice", "valid_for", "publish_as")}
    roles: JsonObject = {role: given[role].strip() for role in ("score", "label", "group") if role in given}
    return read_options(ScoresPart, {**texts, "promise": promise or None, "roles": roles or None})


def _share(name: str, text: str) -> float:
    """A percentage as a share; raises InvalidRequest.

    >>> _share("max_error", "2,5 %")
    0.025
    """
    number = number_or_text(text.strip().removesuffix("%"))
    if not isinstance(number, int | float) or not 0 < number < 100:
        raise InvalidRequest("invalid_request", "expected a percentage between 0 and 100", field=name)
    return round(number / 100, 9)


@router.get("/calibrators/{calibrator_id}")
async def show_calibrator(request: Request, services: ServicesDep, calibrator_id: str, told: bool = False) -> Response:
    """One calibrator; to a script its result alone, as soon as it is there."""
    if "hx-request" in request.headers:
        await services.long_poll.for_final(calibrator_id, WAIT_S)
    return await run_in_threadpool(_page, request, services, calibrator_id, told=told)


@router.post("/calibrators/{calibrator_id}/delete")
async def delete_calibrator(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    again = partial(run_in_threadpool, _page, request, services, calibrator_id)
    return await acted(request, "DELETE", f"/v1/calibrators/{calibrator_id}", "/calibrators", again)


@router.get("/calibrators/{calibrator_id}/report")
def report_of_calibrator(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    with services.registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
    if (row.profile or {}).get("promise"):
        return see_other(f"/calibrators/{calibrator_id}")
    return report_page(request, services.registry, row, "calibrators")


def _page(
    request: Request, services: Services, calibrator_id: str, refused: Problem | None = None, *, told: bool = False
) -> Response:
    with services.registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
        record = calibrator_record(unit, row)
    is_part = "hx-request" in request.headers
    if is_part and not is_news(record, told=told):
        return Response(status_code=204)
    shown = partial(
        page,
        request,
        f"calibrators/{'result' if is_part else 'page'}.html.jinja",
        refused=refused,
        record=record,
        codes=RECORD_CODES,
    )
    if record.promise is not None and row.report_sha256 is not None:
        caller = Caller("", origin_of(request, services.settings.allowed_hosts), bool(services.settings.api_keys))
        try:
            report = ScoreReport.read(json.loads(services.registry.artifacts.path(row.report_sha256).read_bytes()))
            return shown(
                report=report,
                drawing=score_svg(report),
                rows=thresholds(report),
                few=thresholds(report, few=True),
                command=_command(report, f"{caller.url}{record.predict_url}", caller),
            )
        except NOT_DRAWN as reason:
            _LOG.warning("the report of %s cannot be drawn: %r", record.id, reason)
    return shown(report=None)


def _command(report: ScoreReport, url: str, caller: Caller) -> str:
    """The command that asks about a row at the threshold; of several signals, about one in their middle."""
    score = report.promise.threshold or report.curve[-1].score
    row = score if report.influence is None else dict.fromkeys(report.signals, 0.5)
    sliced = {"slices": [report.promise.per_slice[0].value]} if report.promise.per_slice else {}
    body = json.dumps({"scores": [row], **sliced, **({"valid_for": report.valid_for} if report.valid_for else {})})
    asked = [f"curl -s {in_shell(url)}", *caller.shell_header, "-H 'Content-Type: application/json'"]
    return " \\\n  ".join([*asked, f"-d {in_shell(body)}"])
