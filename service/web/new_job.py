"""`/new`: from files to a job. The address names the records, so that a reload, or a colleague, sees the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from fedlas.contract.profiles import TensorSpec
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.records import FINAL, DatasetRecord, JobRecord, ModelRecord
from service.api.plumbing.services import ServicesDep
from service.registry.presenters import dataset_record, job_record, model_record
from service.registry.registry import UnitOfWork
from service.web.forms import (
    FIELD,
    FormState,
    Sent,
    fields_of,
    idempotency_key,
    receive_files,
    request_of,
    suggested_name,
)
from service.web.rendering import page, see_other
from service.web.routes import WAIT_S, PageRoute, call_api, is_news, problem_in

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Records to choose from, of each kind.
_CHOICES = 50
#: Names in a sentence.
_SHOWN = 8
#: Digits of a number that stands for a class.
_DIGITS = 9

Id = Annotated[str | None, Query(max_length=100)]
Part = Literal["model", "dataset", "job", "check"]


@router.get("/new")
async def new_job_page(
    request: Request, services: ServicesDep, model: Id = None, dataset: Id = None, check: Id = None
) -> Response:
    shown = await services.read(partial(NewJobPage.read, model_id=model, dataset_id=dataset, check_id=check))
    return _page(request, shown)


@router.get("/new/{part}")
async def new_job_part(
    request: Request,
    services: ServicesDep,
    part: Part,
    model: Id = None,
    dataset: Id = None,
    check: Id = None,
    told: bool = False,
) -> Response:
    """One part of the page, as soon as the record that it is about is settled; see `is_news` for what comes before."""
    if awaited := {"model": model, "dataset": dataset, "check": check}.get(part):
        await services.long_poll.for_final(awaited, WAIT_S)
    shown = await services.read(partial(NewJobPage.read, model_id=model, dataset_id=dataset, check_id=check))
    if awaited and not is_news(getattr(shown, part), told=told):
        return Response(status_code=204)
    inspected = {"HX-Trigger": "inspected"}  # tells the part with the form that a job may have become possible
    return await run_in_threadpool(_page, request, shown, template=f"new_job/{part}.html.jinja", headers=inspected)


@router.post("/new")
async def send_files(request: Request, services: ServicesDep) -> Response:
    """Make the records of a form's files; what is refused is shown with everything that was entered."""
    sent = await receive_files(request, services)
    model, dataset = sent["model"].record_id, sent["dataset"].record_id
    if not any(one.form.problem for one in sent.values()):
        return see_other(_address(model=model, dataset=dataset))
    shown = await services.read(partial(NewJobPage.read, model_id=model, dataset_id=dataset, check_id=None))
    return _page(request, shown, sent=sent, status=422)


@router.post("/new/{step}")
async def create_job(request: Request, services: ServicesDep, step: Literal["check", "job"]) -> Response:
    """Create the job of a form, or a dry run that checks it."""
    dry_run = step == "check"
    sent = await request.form(max_files=0)
    fields = [(name, value) for name, value in sent.multi_items() if isinstance(value, str)]
    model, dataset, check = (dict(fields).get(name) or None for name in ("model_id", "dataset_id", "check"))
    query = {"dry_run": "true"} if dry_run else None
    content = request_of(fields)
    key = idempotency_key(dict(fields).get(FIELD, ""), [content, dry_run])
    headers = {"Idempotency-Key": key} if key else None
    answer = await call_api(request, "POST", "/v1/jobs", query=query, content=content, headers=headers)
    if answer.is_success:
        job_id = answer.headers["Location"].rpartition("/")[2]
        there = f"{_address(model=model, dataset=dataset, check=job_id)}#check" if dry_run else f"/jobs/{job_id}"
        return see_other(there)
    shown = await services.read(partial(NewJobPage.read, model_id=model, dataset_id=dataset, check_id=check))
    return _page(request, shown, form=FormState(dict(fields), problem_in(answer)), status=answer.status_code)


def _page(
    request: Request,
    shown: NewJobPage,
    *,
    template: str = "new_job/page.html.jinja",
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


def _address(**records: str | None) -> str:
    return f"/new?{urlencode({name: value for name, value in records.items() if value})}"


@dataclass(frozen=True)
class Choices:
    """The newest models and datasets that are ready, to be taken in place of files: `id`, `name` and `created_at`."""

    models: Sequence[object] = ()
    datasets: Sequence[object] = ()

    @classmethod
    def read(cls, unit: UnitOfWork) -> Choices:
        return cls(unit.models.choices(limit=_CHOICES), unit.datasets.choices(limit=_CHOICES))


@dataclass(frozen=True)
class NewJobPage:
    """Parts of a job request, as far as they are there.

    Attributes:
        check: a dry run of the two, whose request the form shows.
        choices: what can be taken in place of a file, where one is needed.
        evaluations: how often the test rows of the dataset have judged.
        gone: `model` or `dataset`, where the address names one that is not there.
    """

    model: ModelRecord | None = None
    dataset: DatasetRecord | None = None
    check: JobRecord | None = None
    choices: Choices = field(default_factory=Choices)
    evaluations: int = 0
    gone: frozenset[str] = frozenset()

    @classmethod
    def read(cls, unit: UnitOfWork, model_id: str | None, dataset_id: str | None, check_id: str | None) -> NewJobPage:
        model_row = unit.models.find(model_id) if model_id else None
        dataset_row = unit.datasets.find(dataset_id) if dataset_id else None
        model = model_record(unit, model_row) if model_row is not None else None
        dataset = dataset_record(unit, dataset_row) if dataset_row is not None else None
        named = (("model", model_id, model), ("dataset", dataset_id, dataset))
        gone = frozenset(noun for noun, record_id, record in named if record_id and record is None)
        job = unit.jobs.find(check_id) if check_id else None
        check = job_record(unit, job, unit.work.of(job.id)) if job is not None else None
        if check is not None and (check.model_id, check.dataset_id, check.dry_run) != (model_id, dataset_id, True):
            check = None  # of another order
        evaluations = unit.ledger.evaluations(dataset_row.sha256) if dataset_row is not None else 0
        shown = cls(model, dataset, check, evaluations=evaluations, gone=gone)
        return shown if shown.is_ready else replace(shown, choices=Choices.read(unit))

    @property
    def query(self) -> str:
        records = {"model": self.model, "dataset": self.dataset, "check": self.check}
        return urlencode({name: one.id for name, one in records.items() if one is not None})

    @property
    def is_awaited(self) -> bool:
        both = [one for one in (self.model, self.dataset) if one is not None]
        return len(both) == 2 and any(one.status not in FINAL for one in both)

    @property
    def is_ready(self) -> bool:
        return not self.waits_for

    @property
    def waits_for(self) -> str:
        """Conditions that a job waits for, as the end of a sentence; empty where there is none."""
        needed = []
        for noun, record in (("model", self.model), ("dataset", self.dataset)):
            if record is None:
                needed.append(f"a {noun}")
            elif record.status == "rejected":
                needed.append(f"another {noun}")
            elif record.status != "ready":
                needed.append(f"the inspection of the {noun}")
        return " and ".join(needed)

    @property
    def misfits(self) -> list[str]:
        return misfits(self.model, self.dataset)

    @property
    def form(self) -> FormState:
        """The job's form before anything was entered: what was checked, else what one would want."""
        if self.check is not None:
            return FormState(fields_of(self.check))
        return FormState({"publish_as": suggested_name(self.model.name) if self.model is not None else ""})


def misfits(model: ModelRecord | None, dataset: DatasetRecord | None) -> list[str]:
    if model is None or dataset is None or not model.status == dataset.status == "ready":
        return []
    if dataset.labelled is False:
        return ["The rows have no labels, so nothing can be fitted to them or judged on them: send them with a label."]
    return [*_classes(model, dataset), *_inputs(model, dataset)]


def are_numbers(names: Sequence[str] | None) -> bool:
    """True where classes are named by their numbers, as they are where nobody has named them.

    >>> are_numbers(["0", "1"]), are_numbers(["cat", "1"]), are_numbers(["²"])
    (True, False, False)
    """
    return all(name.isascii() and name.isdecimal() and len(name) <= _DIGITS for name in names or ())


def _classes(model: ModelRecord, dataset: DatasetRecord) -> Iterator[str]:
    known, given, most = model.class_names or [], dataset.class_names or [], model.num_classes or 0
    if not are_numbers(given) and not are_numbers(known):
        names = set(known)
        if strangers := [name for name in given if name not in names]:
            named = f"class {strangers[0]!r}" if len(strangers) == 1 else f"classes {_some(strangers)}"
            yield (
                f"The model does not know the {named}; it knows {_some(known)}. If these are the "
                "same classes under other names, send the model again with class names as the dataset has them, in "
                "the order of its outputs."
            )
    elif not are_numbers(given) and len(given) != most:
        yield (
            f"The dataset has {len(given):,} named classes and the model {most:,} unnamed ones: send the model again "
            "with its class names, so that labels can be matched by name."
        )
    elif are_numbers(given) and are_numbers(known) and (beyond := [name for name in given if int(name) >= most]):
        begins_at_one = "0" not in given and int(beyond[0]) == most
        remedy = "Labels seem to begin at one: subtract 1." if begins_at_one else "Compare the numbering of the two."
        yield f"Labels reach {max(map(int, beyond)):,}, and the model's {most:,} classes end at {most - 1:,}. {remedy}"


def _inputs(model: ModelRecord, dataset: DatasetRecord) -> Iterator[str]:
    wanted, there = model.inputs or [], {one.name: one for one in dataset.inputs or []}
    if len(wanted) > 1 and (missing := [one.name for one in wanted if one.name not in there]):
        yield (
            f"The model takes {_some([one.name for one in wanted])}; the dataset has no {_some(missing)}. Name its "
            "arrays or columns as the model names its inputs."
        )
    elif len(wanted) == 1 and model.preprocessing is None:
        rows = there.get(wanted[0].name) or (next(iter(there.values())) if len(there) == 1 else None)
        if rows is not None and not _fits(wanted[0], rows):
            yield (
                f"The model takes rows of {_shape(wanted[0])}, the dataset has rows of {_shape(rows)}. "
                f"{_reshaping(wanted[0], rows)}"
            )


def _fits(wanted: TensorSpec, given: TensorSpec) -> bool:
    sizes, there = wanted.shape[1:], given.shape[1:]
    return len(sizes) == len(there) and all(
        isinstance(one, str) or isinstance(other, str) or one == other for one, other in zip(sizes, there, strict=True)
    )


def _reshaping(wanted: TensorSpec, given: TensorSpec) -> str:
    sizes = [one for one in wanted.shape[1:] if isinstance(one, int)]
    there = [one for one in given.shape[1:] if isinstance(one, int)]
    if len(sizes) == len(wanted.shape) - 1 and prod(sizes) == prod(there):
        same = "transpose" if sorted(sizes) == sorted(there) and len(sizes) == len(there) else "reshape"
        return f"Send the rows again, and {same} each of them to {_shape(wanted)} before."
    return "Send rows as the model takes them, or the model that belongs to these rows."


def _shape(spec: TensorSpec) -> str:
    return " × ".join(map(str, spec.shape[1:])) or "one number"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
