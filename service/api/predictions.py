"""`/v1/models/{model}/predict`: predictions at once, over the rows of a request."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, JsonValue
from pydantic_core import from_json, to_json
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import PartsDep
from service.inference.answers import AnswerOptions, answer, check_options, needed_outputs
from service.inference.inputs import parse_inputs
from service.registry import tables
from service.registry.contract import Strict
from service.registry.errors import Conflict, InvalidRequest
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
OPTIONS = ("top_k", "abstain_below", "max_error", "coverage", "decision")
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
    options = AnswerOptions(**{name: getattr(body, name) for name in OPTIONS})
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
