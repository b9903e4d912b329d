"""`/models/{ref}/try`: rows are typed or pasted, and answered as any client would be, beside what a threshold costs.

Whether the rows fit the model is for the API to say; here it is only made out what they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from typing import Any, Self
from urllib.parse import parse_qsl

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import JsonValue
from starlette.datastructures import ImmutableMultiDict, UploadFile

from fedlas.contract.predictions import PredictResponse
from fedlas.contract.problems import Problem
from fedlas.contract.profiles import DatasetProfile, ExampleRow
from fedlas.contract.report import Report
from service.api.plumbing.services import Services, ServicesDep, in_thread
from service.http.access import GRANT
from service.predict.engine.profile import ServingProfile, TensorSpec
from service.predict.served_folder import ResolvedModel
from service.registry import tables
from service.registry.errors import InvalidRequest, RegistryError, TooLarge
from service.registry.registry import UnitOfWork
from service.served.keys import Grant
from service.web.abstention import Costs, Promise, cheapest, promises, table, threshold_svg, tradeoff
from service.web.forms import problem_for
from service.web.jobs import stored_report
from service.web.rendering import page
from service.web.routes import PageRoute, call_api, problem_in
from service.web.snippets import cell_text, example_text

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Each column has a field of its own up to so many.
_MAX_FIELDS = 30
_MAX_FORM_FIELDS = 100
#: Rows and bytes of text that are answered here: they are read in this process, which answers others meanwhile.
_MAX_ROWS = 50
MAX_TEXT = 500_000
#: Characters of a text in an error message.
_SHOWN = 40
_TOP_K = 5


@dataclass(frozen=True)
class Subject:
    """The model that is tried: what it takes, what it can promise, and what its job has found."""

    resolved: ResolvedModel
    name: str
    report: Report | None
    promises: Sequence[Promise]
    dataset: tables.Dataset | None

    @property
    def profile(self) -> ServingProfile:
        return self.resolved.profile

    @property
    def fields(self) -> Sequence[str]:
        columns = self.profile.columns or ()
        return columns if len(columns) <= _MAX_FIELDS else ()

    @cached_property
    def example(self) -> ExampleRow | None:
        """A row of the dataset that the model was calibrated on, its values by the model's inputs."""
        found = DatasetProfile.read(self.dataset.profile) if self.dataset and self.dataset.profile else None
        if found is None or found.example is None or self.profile.preprocessing is not None:
            return None
        values, wanted = found.example.inputs, self.profile.inputs
        if len(wanted) == len(values) == 1:
            [row] = values.values()
            if self.profile.columns and found.columns and isinstance(row, list):
                by_name = dict(zip(found.columns, row, strict=True))
                row = [by_name[name] for name in self.profile.columns if name in by_name]
            values = {wanted[0].name: row}
        fits = all(spec.name in values and _fits(spec, values[spec.name]) for spec in wanted)
        inputs = {spec.name: values[spec.name] for spec in wanted} if fits else {}
        return found.example.model_copy(update={"inputs": inputs}) if fits else None

    def threshold(self, choices: Choices) -> float:
        """The confidence below which the service abstains; it keeps what was promised, too."""
        kept = [one.threshold for one in self.promises if one.level == choices.max_error and one.threshold is not None]
        return max([choices.abstain_below, *kept])


@router.get("/models/{ref}/try")
async def show_form(request: Request, services: ServicesDep, ref: str) -> Response:
    """The form with an example; of a slider that moves, what its threshold costs."""
    subject = await _subject(services, ref)
    grant: Grant | None = request.scope.get(GRANT)
    reads = grant is not None and grant.may("read") and grant.models is None  # who may predict may not see its rows
    example = subject.example if reads else None
    row = None if example is None else example.inputs
    first = None if row is None else next(iter(row.values()))
    given = first if isinstance(first, list) else [0] * len(subject.fields)
    cells = [cell_text(one) for one in given] if subject.fields else []
    text = "" if subject.fields else example_text(subject.profile, row)
    entered = replace(Entered.of(request.query_params), rows=text, cells=cells)
    template = "try_it/threshold.html.jinja" if "hx-request" in request.headers else "try_it/page.html.jinja"
    return _page(request, template, subject, entered, Choices.of(entered), example=example)


@router.post("/models/{ref}/try")
async def answer_form(request: Request, services: ServicesDep, ref: str) -> Response:
    subject = await _subject(services, ref)
    template = "try_it/answer.html.jinja" if "hx-request" in request.headers else "try_it/page.html.jinja"
    entered, choices = Entered(), Choices()
    try:
        entered = await _sent(request, services)
        choices = Choices.of(entered)
        inputs = await in_thread(entered.inputs, subject.profile)
    except RegistryError as error:
        kept = entered if len(entered.rows) <= MAX_TEXT else replace(entered, rows="")
        return _page(request, template, subject, kept, choices, refused=problem_for(request.url.path, error))
    content = {"inputs": inputs, **choices.options(len(subject.profile.class_names))}
    answer = await call_api(request, "POST", f"/v1/models/{ref}/predict", content=content)
    if answer.is_error:
        return _page(request, template, subject, entered, choices, refused=problem_in(answer))
    told = await in_thread(PredictResponse.model_validate_json, answer.content)
    return _page(request, template, subject, entered, choices, told=told)


async def _subject(services: Services, ref: str) -> Subject:
    """Raises NotFound, and Conflict for a model that cannot answer."""
    resolved = await services.look_up(ref)

    def find(unit: UnitOfWork) -> tuple[str, Report | None, tables.Dataset | None]:
        model = unit.models.get(resolved.model_id)
        job = unit.jobs.behind(model)
        report = None if job is None else stored_report(services.registry.artifacts, job.report_sha256)
        used = job or next(unit.jobs.of_model(model.id, limit=1), None)
        return model.name, report, None if used is None else unit.datasets.find(used.dataset_id)

    name, report, dataset = await services.read(find)
    kept = resolved.profile.guarantees if resolved.profile.shift.keeps_promises else None
    return Subject(resolved, name, report, promises(kept), dataset)


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


def _page(
    request: Request,
    template: str,
    subject: Subject,
    entered: Entered,
    choices: Choices,
    *,
    told: PredictResponse | None = None,
    refused: Problem | None = None,
    example: ExampleRow | None = None,
) -> Response:
    report, costs = subject.report, choices.costs
    chosen = None if report is None else tradeoff(report, choices.abstain_below, costs)
    return page(
        request,
        template,
        refused=refused,
        ref=subject.resolved.called,
        subject=subject,
        profile=subject.profile,
        entered=entered,
        choices=choices,
        report=report,
        chosen=chosen,
        best=None if report is None else cheapest(report, costs),
        everything=None if report is None else tradeoff(report, 0.0, costs),
        table=[] if report is None else list(table(report, costs)),
        drawing="" if report is None or chosen is None else threshold_svg(report.risk_coverage.calibrated, chosen),
        told=told,
        threshold=subject.threshold(choices),
        example=example,
    )


@dataclass(frozen=True)
class Entered:
    """Values as entered, whether or not they can be meant, to be shown again."""

    rows: str = ""
    cells: Sequence[str] = ()
    images: Sequence[bytes] = ()
    coverage: str = ""
    max_error: str = ""
    abstain_below: str = "0"
    error_cost: str = "10"
    abstention_cost: str = "1"

    @classmethod
    def of(cls, form: ImmutableMultiDict[str, Any], images: Sequence[bytes] = ()) -> Self:
        names = [one.name for one in fields(cls)]
        texts = {name: form[name] for name in names if isinstance(form.get(name), str)}
        cells = [cell for cell in form.getlist("cell") if isinstance(cell, str)]
        return cls(**{**texts, "cells": cells, "images": images})

    def inputs(self, profile: ServingProfile) -> JsonValue:
        """The rows; raises InvalidRequest, and TooLarge for more than are answered here."""
        inputs = self._inputs(profile)
        rows = next(iter(inputs.values()), None) if isinstance(inputs, dict) else inputs
        if isinstance(rows, list) and len(rows) > _MAX_ROWS:
            raise TooLarge(
                "too_many_rows",
                f"{len(rows):,} rows were entered; up to {_MAX_ROWS} are answered here, and any number by a client",
            )
        return inputs

    def _inputs(self, profile: ServingProfile) -> JsonValue:
        if self.images:
            return [{"b64": b64encode(image).decode()} for image in self.images]
        if profile.columns is not None and not self.rows.strip() and any(self.cells):
            cells = zip(profile.columns, self.cells, strict=False)
            return [{name: _value(cell, f"column {_short(name)!r}") for name, cell in cells}]
        if len(self.rows) > MAX_TEXT:
            raise TooLarge(
                "too_large",
                f"{len(self.rows):,} letters were entered; up to {MAX_TEXT:,} are read here, and more by a client",
            )
        return inputs_of(self.rows, profile)


@dataclass(frozen=True)
class Choices:
    """The numbers beside the rows: when to abstain, what is asked for, and what errors and abstentions cost."""

    abstain_below: float = 0.0
    coverage: float | None = None
    max_error: float | None = None
    costs: Costs = field(default_factory=Costs)

    @classmethod
    def of(cls, entered: Entered) -> Choices:
        return cls(
            abstain_below=_number("The confidence to answer from", entered.abstain_below or "0", most=1),
            coverage=_number("The prediction set", entered.coverage, most=1) if entered.coverage else None,
            max_error=_number("The promise", entered.max_error, most=1) if entered.max_error else None,
            costs=Costs(
                error=_number("The cost of a wrong answer", entered.error_cost or "0"),
                abstention=_number("The cost of an abstention", entered.abstention_cost or "0"),
            ),
        )

    def options(self, num_classes: int) -> dict[str, JsonValue]:
        asked = {"coverage": self.coverage, "max_error": self.max_error, "abstain_below": self.abstain_below or None}
        return {
            "top_k": min(_TOP_K, num_classes),
            **{name: value for name, value in asked.items() if value is not None},
        }


def _number(name: str, text: str, *, most: float = 1e9) -> float:
    try:
        number = float(text.replace(",", ".", 1))
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise InvalidRequest("invalid_request", f"{name} is {_short(text)!r}; expected a number from 0 to {most:,.0f}")
    return number


def inputs_of(text: str, profile: ServingProfile) -> JsonValue:
    """Inputs from a text of JSON or CSV, in which one row may stand alone; raises InvalidRequest with the place."""
    stripped = text.strip()
    if not stripped:
        raise InvalidRequest("empty_inputs", "nothing was entered; at least one row is needed", field="inputs")
    if stripped[0] in "[{":
        return _of_json(stripped, profile)
    if len(profile.inputs) > 1:
        names = ", ".join(spec.name for spec in profile.inputs)
        message = f"this model has several inputs ({names}); expected a JSON object with the rows of each"
        raise InvalidRequest("wrong_inputs", message, field="inputs")
    return _of_csv(stripped, profile.columns, profile.inputs[0])


def _of_json(text: str, profile: ServingProfile) -> JsonValue:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        message = f"what was entered begins like JSON and is none: {reason}"
        raise InvalidRequest("invalid_json", message, field="inputs") from error
    if isinstance(content, dict) and set(content) == {"inputs"}:  # the body of a request
        content = content["inputs"]
    specs = {spec.name: spec for spec in profile.inputs}
    if not isinstance(content, dict):
        return _rows(content, profile.inputs[0])
    if len(specs) == 1 and content.keys() != specs.keys():
        return [content]  # a row by the names of its columns
    return {name: _rows(rows, specs.get(name)) for name, rows in content.items()}


def _rows(value: JsonValue, spec: TensorSpec | None) -> JsonValue:
    """The value, or a list of it where it is one row."""
    return [value] if spec is not None and isinstance(value, list) and _depth(value) == len(spec.row) else value


def _fits(spec: TensorSpec, value: JsonValue) -> bool:
    there = np.shape(np.array(value, object))
    return len(there) == len(spec.row) and all(
        isinstance(size, str) or size == one for size, one in zip(spec.row, there, strict=True)
    )


def _depth(value: JsonValue) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _of_csv(text: str, columns: Sequence[str] | None, spec: TensorSpec) -> JsonValue:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True) if line]
    except csv.Error as error:
        message = f"what was entered is neither JSON nor CSV: {error}"
        raise InvalidRequest("wrong_inputs", message, field="inputs") from error
    if columns is not None and any(cell.strip() in set(columns) for cell in lines[0]):
        names = [cell.strip() for cell in lines[0]]
        return [_named(names, line, number) for number, line in enumerate(lines[1:], 2)]
    rows = [[_value(cell, f"line {n}, value {i}") for i, cell in enumerate(line, 1)] for n, line in enumerate(lines, 1)]
    sizes = [size for size in spec.row if isinstance(size, int)]
    if len(sizes) == len(spec.row) > 1:
        return [np.array(row, object).reshape(sizes).tolist() if len(row) == prod(sizes) else row for row in rows]
    return list(rows)


def _named(names: Sequence[str], line: Sequence[str], number: int) -> dict[str, JsonValue]:
    if len(line) != len(names):
        message = f"line {number} has {len(line)} values, and the heading names {len(names)} columns"
        raise InvalidRequest("wrong_inputs", message, field="inputs")
    return {
        name: _value(cell, f"line {number}, column {_short(name)!r}") for name, cell in zip(names, line, strict=True)
    }


def _value(cell: str, place: str) -> JsonValue:
    """The number in a cell; an empty one is missing."""
    text = cell.strip()
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InvalidRequest("wrong_inputs", f"{place}: {_short(text)!r} is no number", field="inputs")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
