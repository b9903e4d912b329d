"""`/models/{ref}/try`: rows are entered, and answered as any client would be, beside what a threshold costs."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue
from starlette.datastructures import ImmutableMultiDict, UploadFile

from service.api.predict_schemas import Prediction, Predictions
from service.api.problems import Problem, status_of
from service.api.services import Services, ServicesDep, in_thread
from service.inference.profile import ServingProfile
from service.model_repository import ResolvedModel
from service.registry.errors import InvalidRequest, RegistryError, TooLarge
from service.registry.unit_of_work import UnitOfWork
from service.web.abstention import Costs, Promise, cheapest, promises, table, tradeoff
from service.web.api_calls import call_api
from service.web.entered_rows import inputs_of, row_of
from service.web.example_rows import example_text
from service.web.rendering import page
from service.web.report_excerpts import Excerpt, excerpt_of
from service.web.threshold_drawing import threshold_svg

router = APIRouter(include_in_schema=False)

#: Each column has a field of its own up to so many.
_MOST_FIELDS = 30
#: Answers that are shown of one request.
_MOST_SHOWN = 50
_TOP_K = 5


@dataclass(frozen=True)
class Entered:
    """What somebody has entered, as it is shown again."""

    rows: str = ""
    cells: Sequence[str] = ()
    images: Sequence[bytes] = ()
    coverage: str = ""
    max_error: str = ""
    abstain_below: float = 0.0
    costs: Costs = field(default_factory=Costs)

    def inputs(self, profile: ServingProfile) -> JsonValue:
        """The rows; raises InvalidRequest."""
        if self.images:
            return [{"b64": b64encode(image).decode()} for image in self.images]
        if profile.columns is not None and not self.rows.strip() and any(self.cells):
            return row_of(profile.columns, self.cells)
        return inputs_of(self.rows, profile)

    def options(self, profile: ServingProfile) -> dict[str, JsonValue]:
        """The options of the answer; raises InvalidRequest."""
        asked: dict[str, JsonValue] = {"top_k": min(_TOP_K, len(profile.class_names))}
        if self.coverage:
            asked["coverage"] = _number("coverage", self.coverage)
        if self.max_error:
            asked["max_error"] = _number("max_error", self.max_error)
        if self.abstain_below > 0:
            asked["abstain_below"] = self.abstain_below
        return asked


@dataclass(frozen=True)
class Subject:
    """The model that is tried: what it takes, what it can promise, and what its job has found."""

    resolved: ResolvedModel
    name: str
    excerpt: Excerpt | None
    promises: Sequence[Promise]

    @property
    def profile(self) -> ServingProfile:
        """As requests see it."""
        return self.resolved.profile

    @property
    def fields(self) -> Sequence[str]:
        """The columns that have a field each."""
        columns = self.profile.columns or ()
        return columns if len(columns) <= _MOST_FIELDS else ()

    def threshold(self, entered: Entered) -> float:
        """The confidence below which the service abstains; it keeps what was promised, too."""
        level = _number("max_error", entered.max_error) if entered.max_error else None
        kept = [one.threshold for one in self.promises if one.level == level and one.threshold is not None]
        return max([entered.abstain_below, *kept])


@dataclass(frozen=True)
class Answer:
    """What the service has answered."""

    told: Predictions
    threshold: float

    @property
    def shown(self) -> Sequence[Prediction]:
        """The first of them."""
        return self.told.predictions[:_MOST_SHOWN]


@router.get("/models/{ref}/try")
async def show_form(request: Request, services: ServicesDep, ref: str) -> Response:
    """The form with an example; of a slider that moves, what its threshold costs."""
    subject = await _subject(services, ref)
    example = "" if subject.fields else example_text(subject.profile)
    entered = replace(_texts(request.query_params), rows=example, cells=["0"] * len(subject.fields))
    template = "try_it/threshold.html.jinja" if "hx-request" in request.headers else "try_it/page.html.jinja"
    return _page(request, template, subject, entered)


@router.post("/models/{ref}/try")
async def answer_form(request: Request, services: ServicesDep, ref: str) -> Response:
    """The answer, or why there is none; what was entered stays."""
    subject = await _subject(services, ref)
    template = "try_it/answer.html.jinja" if "hx-request" in request.headers else "try_it/page.html.jinja"
    entered = Entered()
    try:
        entered = await _entered(request, services)
        content = {"inputs": entered.inputs(subject.profile), **entered.options(subject.profile)}
    except RegistryError as error:
        return _page(request, template, subject, entered, problem=_problem_of(error))
    answer = await call_api(request, "POST", f"/v1/models/{ref}/predict", content=content)
    if answer.failed:
        return _page(request, template, subject, entered, problem=answer.problem)
    told = Answer(Predictions.model_validate_json(answer.body), subject.threshold(entered))
    return _page(request, template, subject, entered, answer=told)


async def _subject(services: Services, ref: str) -> Subject:
    """Raises NotFound, and Conflict for a model that cannot answer."""
    resolved = await in_thread(services.model_repository.look_up, ref)

    def find(unit: UnitOfWork) -> tuple[str, Excerpt | None]:
        model = unit.models.get(resolved.model_id)
        job = unit.jobs.behind(model)
        return model.name, None if job is None else excerpt_of(services.registry.artifacts, job.report_sha256)

    name, excerpt = await services.read(find)
    kept = resolved.profile.guarantees if resolved.profile.shift.keeps_promises else None
    return Subject(resolved, name, excerpt, promises(kept))


async def _entered(request: Request, services: Services) -> Entered:
    limit = services.settings.max_predict_json_bytes
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > limit:
        raise TooLarge("too_large", f"a form may have {limit:,} bytes here; send more with a client of the API")
    async with request.form(max_part_size=limit) as form:
        files = [file for file in form.getlist("images") if isinstance(file, UploadFile) and file.size]
        return replace(_texts(form), images=[await file.read() for file in files])


def _texts(form: ImmutableMultiDict[str, Any]) -> Entered:
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    return Entered(
        rows=texts.get("rows", ""),
        cells=[cell for cell in form.getlist("cell") if isinstance(cell, str)],
        coverage=texts.get("coverage", ""),
        max_error=texts.get("max_error", ""),
        abstain_below=_number("abstain_below", texts.get("abstain_below") or "0"),
        costs=Costs(
            error=_number("error_cost", texts.get("error_cost") or str(Costs.error)),
            abstention=_number("abstention_cost", texts.get("abstention_cost") or str(Costs.abstention)),
        ),
    )


def _number(name: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found < 0:
        raise InvalidRequest("invalid_request", f"{name} is {text[:40]!r}; needed is a number, 0 or more", field=name)
    return found


def _problem_of(error: RegistryError) -> Problem:
    status = status_of(error)
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=error.message, code=error.code)


def _page(
    request: Request,
    template: str,
    subject: Subject,
    entered: Entered,
    *,
    answer: Answer | None = None,
    problem: Problem | None = None,
) -> Response:
    excerpt, costs = subject.excerpt, entered.costs
    chosen = None if excerpt is None else tradeoff(excerpt, entered.abstain_below, costs)
    return page(
        request,
        template,
        status=200 if problem is None else problem.status,
        ref=subject.resolved.called,
        subject=subject,
        profile=subject.profile,
        entered=entered,
        excerpt=excerpt,
        chosen=chosen,
        best=None if excerpt is None else cheapest(excerpt, costs),
        everything=None if excerpt is None else tradeoff(excerpt, 0.0, costs),
        table=[] if excerpt is None else list(table(excerpt, costs)),
        drawing="" if excerpt is None or chosen is None else threshold_svg(excerpt.risk_coverage.calibrated, chosen),
        answer=answer,
        problem=problem,
    )
