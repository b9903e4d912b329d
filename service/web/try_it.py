"""`/models/{ref}/try`: rows are entered, and answered as any client would be, beside what a threshold costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from starlette.datastructures import ImmutableMultiDict, UploadFile

from service.api.predict_schemas import Predictions
from service.api.problems import Problem, status_of
from service.api.services import Services, ServicesDep, in_thread
from service.inference.profile import ServingProfile
from service.registry.errors import InvalidRequest, RegistryError, TooLarge
from service.registry.unit_of_work import UnitOfWork
from service.resolved_model import ResolvedModel
from service.web.abstention import Promise, cheapest, promises, table, tradeoff
from service.web.api_calls import call_api
from service.web.example_rows import example_text
from service.web.page_route import PageRoute
from service.web.rendering import page
from service.web.report_excerpts import Excerpt, excerpt_of
from service.web.threshold_drawing import threshold_svg
from service.web.trial import MOST_TEXT, Choices, Entered

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Each column has a field of its own up to so many.
_MOST_FIELDS = 30
_MAX_FORM_FIELDS = 100


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

    def threshold(self, choices: Choices) -> float:
        """The confidence below which the service abstains; it keeps what was promised, too."""
        kept = [one.threshold for one in self.promises if one.level == choices.max_error and one.threshold is not None]
        return max([choices.abstain_below, *kept])


@router.get("/models/{ref}/try")
async def show_form(request: Request, services: ServicesDep, ref: str) -> Response:
    """The form with an example; of a slider that moves, what its threshold costs."""
    subject = await _subject(services, ref)
    example = "" if subject.fields else example_text(subject.profile)
    entered = replace(Entered.of(request.query_params), rows=example, cells=["0"] * len(subject.fields))
    template = "try_it/threshold.html.jinja" if "hx-request" in request.headers else "try_it/page.html.jinja"
    return _page(request, template, subject, entered, Choices.of(entered))


@router.post("/models/{ref}/try")
async def answer_form(request: Request, services: ServicesDep, ref: str) -> Response:
    """The answer, or why there is none; what was entered stays."""
    subject = await _subject(services, ref)
    template = "try_it/answer.html.jinja" if "hx-request" in request.headers else "try_it/page.html.jinja"
    entered, choices = Entered(), Choices()
    try:
        entered = await _sent(request, services)
        choices = Choices.of(entered)
        inputs = await in_thread(entered.inputs, subject.profile)
    except RegistryError as error:
        kept = entered if len(entered.rows) <= MOST_TEXT else replace(entered, rows="")
        return _page(request, template, subject, kept, choices, refused=_problem_of(error))
    content = {"inputs": inputs, **choices.options(len(subject.profile.class_names))}
    answer = await call_api(request, "POST", f"/v1/models/{ref}/predict", content=content)
    if answer.failed:
        return _page(request, template, subject, entered, choices, refused=answer.problem)
    told = await in_thread(Predictions.model_validate_json, answer.body)
    return _page(request, template, subject, entered, choices, told=told)


async def _subject(services: Services, ref: str) -> Subject:
    """Raises NotFound, and Conflict for a model that cannot answer."""
    resolved = await services.look_up(ref)

    def find(unit: UnitOfWork) -> tuple[str, Excerpt | None]:
        model = unit.models.get(resolved.model_id)
        job = unit.jobs.behind(model)
        return model.name, None if job is None else excerpt_of(services.registry.artifacts, job.report_sha256)

    name, excerpt = await services.read(find)
    kept = resolved.profile.guarantees if resolved.profile.shift.keeps_promises else None
    return Subject(resolved, name, excerpt, promises(kept))


async def _sent(request: Request, services: Services) -> Entered:
    limit = services.settings.max_predict_json_bytes
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > limit:
        raise TooLarge("too_large", f"up to {limit:,} bytes are read here, and more by a client")
    if request.headers.get("content-type", "").startswith("multipart/"):
        async with request.form(max_part_size=limit) as form:
            files = [file for file in form.getlist("images") if isinstance(file, UploadFile) and file.size]
            return Entered.of(form, [await file.read() for file in files])
    return Entered.of(await in_thread(_fields, await request.body()))


def _fields(body: bytes) -> ImmutableMultiDict[str, str]:
    """The fields of a form, which a parser of streams would take 0.7 µs a byte for, on the event loop."""
    try:
        return ImmutableMultiDict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS))
    except ValueError as error:
        raise InvalidRequest("invalid_form", f"this is no form of up to {_MAX_FORM_FIELDS} fields: {error}") from error


def _problem_of(error: RegistryError) -> Problem:
    status = status_of(error)
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=error.message, code=error.code)


def _page(
    request: Request,
    template: str,
    subject: Subject,
    entered: Entered,
    choices: Choices,
    *,
    told: Predictions | None = None,
    refused: Problem | None = None,
) -> Response:
    excerpt, costs = subject.excerpt, choices.costs
    chosen = None if excerpt is None else tradeoff(excerpt, choices.abstain_below, costs)
    return page(
        request,
        template,
        refused=refused,
        ref=subject.resolved.called,
        subject=subject,
        profile=subject.profile,
        entered=entered,
        choices=choices,
        excerpt=excerpt,
        chosen=chosen,
        best=None if excerpt is None else cheapest(excerpt, costs),
        everything=None if excerpt is None else tradeoff(excerpt, 0.0, costs),
        table=[] if excerpt is None else list(table(excerpt, costs)),
        drawing="" if excerpt is None or chosen is None else threshold_svg(excerpt.risk_coverage.calibrated, chosen),
        told=told,
        threshold=subject.threshold(choices),
    )
