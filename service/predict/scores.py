"""The handler of `POST /v1/calibrators/{calibrator}/predict`: scores become probabilities, and what may be accepted."""

from __future__ import annotations

import numpy as np
import orjson

from fedlas.contract.predictions import ScoreRequest
from fedlas.contract.scores import ScoreServing
from fedlas.guarantees import band_at
from fedlas.guarantees.accepted_scores import accepted
from service.predict.call import InferenceCall
from service.predict.engine.profile import Outputs
from service.predict.formats.json_inputs import check_json
from service.predict.messages import Answer
from service.registry.errors import InvalidRequest, NotFound

_CALIBRATOR = "cal_"
_MODEL = "mdl_"
_JSON = b"application/json"


async def predict_scores(call: InferenceCall) -> Answer:
    called = call.model
    if called.startswith(_CALIBRATOR):
        call.model = _MODEL + called.removeprefix(_CALIBRATOR)
    limit = call.settings.max_predict_json_bytes
    body = await call.body(limit, json=True)
    try:
        model, queue = await call.find()
    except NotFound as error:
        if error.code != "unknown_model":
            raise
        message = f"there is no calibrator with the id or published name {called!r}"
        raise NotFound("unknown_calibrator", message) from None
    body = await call.decompressed(body, limit, json=True)
    serving = model.profile.scores
    if serving is None:
        message = f"{call.model!r} takes no scores: it is asked at /v1/models/{call.model}/predict"
        raise InvalidRequest("not_a_score", message)
    request, values = await call.read(body, _parsed, serving, call.settings.max_predict_rows, limit)
    outputs = await call.run(queue, {model.profile.inputs[0].name: values}, ("probabilities",))
    answer = await call.write(outputs, _written, outputs, values, serving, request, model.served)
    return Answer(answer, _JSON)


def _parsed(body: bytes, serving: ScoreServing, max_rows: int, limit: int) -> tuple[ScoreRequest, np.ndarray]:
    """The request, and its rows (N, S) with NaN where a score is missing."""
    check_json(body, limit=limit)
    request = ScoreRequest.model_validate_json(body)
    count = len(request.scores)
    if count > max_rows:
        raise InvalidRequest("invalid_request", f"{count} rows, at most {max_rows}", field="scores")
    if request.slices is not None and len(request.slices) != count:
        raise InvalidRequest("invalid_request", f"{len(request.slices)} slices for {count} rows", field="slices")
    values = np.full((count, len(serving.signals)), np.nan)
    for row, given in enumerate(request.scores):
        signals = given if isinstance(given, dict) else {serving.signals[0]: given}
        if set(signals) - set(serving.signals) or (not isinstance(given, dict) and len(serving.signals) > 1):
            needed = f"expected numbers for {', '.join(serving.signals)}"
            raise InvalidRequest("invalid_request", f"row {row} holds {str(given)[:100]}; {needed}", field="scores")
        for place, name in enumerate(serving.signals):
            if (number := signals.get(name)) is not None:
                values[row, place] = number
    return request, values


def _written(
    outputs: Outputs, values: np.ndarray, serving: ScoreServing, request: ScoreRequest, served: bytes
) -> bytes:
    """The answer: each row is accepted by its own score, of several signals by their probability."""
    probs = outputs["probabilities"][:, 1].astype(np.float64)
    position = values[:, 0] if len(serving.signals) == 1 else probs
    knots, least, most = (np.array(part) for part in (serving.knots, serving.low, serving.high))
    low, high = band_at(position, knots, least, most, rising=serving.rising)
    low, high = np.minimum(low, probs), np.maximum(high, probs)
    stale = request.valid_for is not None and request.valid_for != serving.valid_for
    unpromised = request.slices is None and serving.promise.threshold is None
    # The promise speaks of no other version.
    accepts = (
        [None] * len(position) if unpromised else (accepted(position, serving, request.slices) & (not stale)).tolist()
    )
    columns = zip(probs.tolist(), low.tolist(), high.tolist(), accepts, strict=True)
    predictions = [
        {"probability": prob, "low": least, "high": most, "accept": accept, "stale": stale}
        for prob, least, most, accept in columns
    ]
    content = {"model": orjson.Fragment(served), "promise": serving.promise.model_dump(), "predictions": predictions}
    return orjson.dumps(content)
