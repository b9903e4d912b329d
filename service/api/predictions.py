"""Predictions: at once over the rows of a request, or by a worker over a stored dataset."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, JsonValue
from pydantic_core import from_json, to_json
from starlette.concurrency import run_in_threadpool

from service.api.creation import still_inspecting
from service.api.dependencies import After, Limit, PartsDep, Wait, created, long_poll, still_open, tagged
from service.api.idempotency import IdempotencyKey, Key, create_together
from service.inference.answers import AnswerOptions, answer, check_options, needed_outputs
from service.inference.inputs import parse_inputs
from service.inference.results import read_page
from service.registry import tables
from service.registry.contract import BatchRecord, BatchRequest, Page, Strict
from service.registry.errors import Conflict, InvalidRequest, NotFound, UnknownReference
from service.registry.ids import new_id
from service.registry.records import batch_record
from service.registry.repositories.records import now
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(tags=["predictions"])


class PredictRequest(Strict):
    """`POST /v1/models/{id or published name}/predict`."""

    inputs: JsonValue = Field(
        description="Rows in the model's input shape, or an object of rows by input name. Where the model has "
        'preprocessing a row may be an image file, `{"b64": "…"}` (PNG, JPEG, WebP or BMP).'
    )
    top_k: int | None = Field(None, ge=1, le=1000)
    abstain_below: float | None = Field(None, ge=0, le=1)
    max_error: float | dict[str, float] | None = Field(
        None,
        description="Abstain so that at most this share of the answers is wrong; or such a share of each true class's "
        'answers: `{"class": share}` for every class, or by class name.',
    )
    coverage: float | dict[str, float] | None = Field(
        None,
        description="Answer `prediction_set`, which holds the true class with this probability; or with such a "
        'probability for the rows of each true class: `{"class": c}` for every class, or by class name.',
    )
    decision: dict[str, JsonValue] | None = Field(
        None,
        description='`{"threshold": t}` on the positive class, or `{"costs": [[…]]}`: rows decide, columns are true.',
    )


class ServedModel(BaseModel):
    """Which model answered."""

    id: str
    name: str
    version: int
    calibrated: bool


class RankedLabel(BaseModel):
    """One of the `top_k` classes."""

    label: str
    index: int
    confidence: float


class Prediction(BaseModel):
    """The answer for one row."""

    label: str
    index: int
    confidence: float = Field(description="Calibrated probability that the label is right.")
    uncalibrated_confidence: float = Field(description="What the same network says without its calibrator.")
    abstain: bool = Field(description="The confidence is below what `abstain_below` or `max_error` asks for.")
    probability: float | None = Field(None, description="Binary models: of the positive class.")
    familiarity: float | None = Field(
        None,
        description="Calibrated models: share of the calibration rows that were at least as strange; small is far.",
    )
    top_k: list[RankedLabel] | None = None
    prediction_set: list[str] | None = Field(None, description="With `coverage`; the most probable class first.")
    decision: str | None = Field(None, description="With `decision`: the class to act on.")
    row: int | None = Field(None, description="Batches: the row in the dataset.")


class Predictions(BaseModel):
    """The answer to a predict request."""

    model: ServedModel
    predictions: list[Prediction]


#: Of a request, what is not about its rows.
_OPTIONS = ("top_k", "abstain_below", "max_error", "coverage", "decision")
_PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}}},
    }
}


@router.post("/v1/models/{model}/predict", response_model=Predictions, openapi_extra=_PREDICT_BODY)
async def predict(request: Request, parts: PartsDep, model: str) -> Response:
    """Predict the rows of this request with calibrated confidences."""
    raw = await request.body()
    return await run_in_threadpool(_predict, parts, model, raw)


def _predict(parts: PartsDep, model: str, raw: bytes) -> Response:
    with parts.registry.read() as unit:
        row = find_model(unit, model)
    if row.status != "ready" or row.profile is None or row.served_sha256 is None:
        raise Conflict("model_not_ready", f"{row.id} is {row.status}; only ready models predict")
    body = _parse(raw)
    options = AnswerOptions(**{name: getattr(body, name) for name in _OPTIONS})
    check_options(row.profile, options)
    arrays = parse_inputs(
        body.inputs,
        row.profile["inputs"],
        max_rows=parts.settings.max_predict_rows,
        preprocessing=row.profile.get("preprocessing"),
    )
    outputs = parts.engine.run(row.served_sha256, arrays, outputs=needed_outputs(row.profile))
    served = ServedModel(id=row.id, name=row.name, version=row.version, calibrated=row.calibrated)
    content = {"model": served.model_dump(), "predictions": answer(outputs, row.profile, options)}
    return Response(to_json(content), media_type="application/json")


def _parse(raw: bytes) -> PredictRequest:
    try:
        # NaN is let through here, so that the answer can name the row that holds it.
        content = from_json(raw, allow_inf_nan=True)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"the body is not valid JSON: {error}") from error
    if not isinstance(content, dict) or "inputs" not in content:
        raise InvalidRequest("invalid_request", 'the body must be a JSON object with "inputs"', field="inputs")
    body = PredictRequest.model_validate({**content, "inputs": None})
    return body.model_copy(update={"inputs": content["inputs"]})


def find_model(unit: UnitOfWork, id_or_name: str) -> tables.Model:
    """The model with this id or published name; raises NotFound."""
    model_id = id_or_name if id_or_name.startswith("mdl_") else unit.names.resolve(id_or_name)
    return unit.models.get(model_id)


@router.post("/v1/predictions", status_code=202, response_model=BatchRecord)
async def create_batch(parts: PartsDep, body: BatchRequest, key: IdempotencyKey = None) -> Response:
    """Order predictions for every row of a stored dataset."""

    def make(unit: UnitOfWork) -> BatchRecord:
        try:
            model = find_model(unit, body.model)
        except NotFound as error:
            raise UnknownReference(error.code, error.message, field="model") from error
        dataset = unit.datasets.find(body.dataset_id)
        if dataset is None:
            message = f"there is no dataset {body.dataset_id!r}"
            raise UnknownReference("unknown_dataset", message, field="dataset_id")
        options = body.model_dump(include=set(_OPTIONS))
        if model.profile is not None:  # else the worker checks, once the model has been inspected
            check_options(model.profile, AnswerOptions(**options))
        row = tables.Batch(
            id=new_id("bat"),
            status="queued",
            created_at=now(),
            model_id=model.id,
            dataset_id=body.dataset_id,
            options=options,
            progress={},
        )
        unit.batches.add(row)
        return batch_record(row, unit.work.open(row.id, blocked=still_inspecting(model, dataset)))

    answer = await create_together(parts, Key.of("predictions", key), [body.model_dump_json()], make)
    return created(answer, "/v1/predictions", 202)


@router.get("/v1/predictions")
def list_batches(parts: PartsDep, limit: Limit = 20, after: After = None) -> Page[BatchRecord]:
    """List batches, newest first."""
    with parts.registry.read() as unit:
        rows, has_more = unit.batches.page(limit=limit, after=after)
        return Page(data=[batch_record(row, unit.work.of(row.id)) for row in rows], has_more=has_more)


@router.get("/v1/predictions/{batch_id}", response_model=BatchRecord)
async def get_batch(request: Request, parts: PartsDep, batch_id: str, wait: Wait = None) -> Response:
    """Return one batch; `wait` returns as soon as it has ended."""

    def read() -> BatchRecord:
        with parts.registry.read() as unit:
            row = unit.batches.get(batch_id)
            return batch_record(row, unit.work.of(row.id))

    record = await long_poll(parts, read, wait)
    return tagged(request, record, headers=still_open(record))


RowCursor = Annotated[int | None, Query(ge=-1, description="Continue after this row.")]


@router.get("/v1/predictions/{batch_id}/results")
def get_results(parts: PartsDep, batch_id: str, limit: Limit = 100, after: RowCursor = None) -> Page[Prediction]:
    """One page of a batch's predictions, in the dataset's order; 409 before it has ended."""
    with parts.registry.read() as unit:
        row = unit.batches.get(batch_id)
    if row.results_sha256 is None:
        raise Conflict("no_results", f"{batch_id} is {row.status}; results exist once it has succeeded")
    path = parts.registry.artifacts.path(row.results_sha256)
    rows, has_more = read_page(path, start=0 if after is None else after + 1, limit=limit)
    return Page(data=[Prediction.model_validate(item) for item in rows], has_more=has_more)
