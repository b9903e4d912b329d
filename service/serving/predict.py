"""`POST /v1/models/{model}/predict`: rows in any format become predictions one can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from pydantic_core import from_json

from service.api.predictions import OPTIONS, PredictRequest
from service.api.problems import MOST_ERRORS
from service.inference import formats
from service.inference.answer_size import FEW_ANSWER_BYTES, of_predictions
from service.inference.excerpts import listed
from service.inference.formats.options import from_query, merged
from service.inference.json_limits import FEW_BYTES, check_json, collector_paused
from service.inference.predictions import AnswerOptions, abstentions, answer, check_options, taken_outputs
from service.inference.signature import parse_inputs
from service.inference.standard_outputs import Outputs
from service.model_repository import Target
from service.registry.errors import InvalidRequest
from service.serving.app import SMALL_BYTES, Call, Serving
from service.serving.messages import Answer

_JSON = "application/json"
_PLAIN = AnswerOptions()
_PLAIN_KEYS = {"inputs"}

Parsed = tuple[dict[str, np.ndarray], AnswerOptions]


async def predict(serving: Serving, call: Call) -> Answer:
    """Answer one request."""
    request = call.request
    settings, kind = serving.settings, request.content_type
    is_json = _is_json(kind)
    if not is_json:
        formats.check_type(kind)
    limit = settings.max_predict_json_bytes if is_json else settings.max_predict_bytes
    body = await serving.body(call, limit, json=is_json)
    target, line = await serving.find(call)
    body = await serving.unpacked(call, body, limit, json=is_json)
    profile, most = target.profile, settings.max_predict_rows
    small = 0 if profile.get("preprocessing") else SMALL_BYTES  # a file of 100 bytes may have 50 million pixels
    if is_json:
        inputs, options = await serving.read(call, body, parse_json, profile, most, request.query, limit, small=small)
    else:
        content_type = request.headers[b"content-type"].decode("latin-1")
        inputs, options = await serving.read(
            call, body, _parse, content_type, request.query, profile, most, small=small
        )
    rows = len(next(iter(inputs.values())))
    if rows * target.labels.most > FEW_ANSWER_BYTES:
        serving.expect(call, rows, of_predictions(target.labels, options))
    outputs = await serving.run(call, line, inputs, taken_outputs(profile, options))
    found = Answer(await serving.write(call, outputs, _json, target, outputs, options))
    call.abstained = abstentions(outputs, profile, options)
    return found


def _is_json(kind: str) -> bool:
    return kind == _JSON or (kind.startswith("application/") and kind.endswith("+json"))


def parse_json(
    body: bytes, profile: Mapping[str, Any], max_rows: int, query: bytes = b"", limit: int = 8 * 1024**2
) -> Parsed:
    """Read JSON of at most `limit` bytes, and options of a query string.

    Raises InvalidRequest, TooLarge or pydantic's ValidationError.
    """
    check_json(body, limit=limit)
    if len(body) <= FEW_BYTES:
        return _read_json(body, profile, max_rows, query)
    with collector_paused():
        return _read_json(body, profile, max_rows, query)


def _read_json(body: bytes, profile: Mapping[str, Any], max_rows: int, query: bytes) -> Parsed:
    content = _loaded(body)
    if not isinstance(content, dict) or "inputs" not in content:
        raise InvalidRequest("invalid_request", 'the body must be a JSON object with "inputs"', field="inputs")
    rows = content["inputs"]
    if query:
        given = from_query(query)
        content |= merged(given, {name: content[name] for name in OPTIONS if name in content})
    options = _PLAIN if content.keys() == _PLAIN_KEYS else _options({**content, "inputs": None}, profile)
    inputs = parse_inputs(rows, profile["inputs"], max_rows=max_rows, preprocessing=profile.get("preprocessing"))
    return inputs, options


def _loaded(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        # NaN is let through here, so that the answer can name the row that holds it; integers may be of any size.
        return from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise InvalidRequest("invalid_json", f"the body is not valid JSON: {str(error)[:300]}") from error


def _options(content: Mapping[str, object], profile: Mapping[str, Any]) -> AnswerOptions:
    _check_number(content, profile)
    decision = content.get("decision")
    if isinstance(decision, dict):  # JSON it is, and what it says is checked with the model's classes
        content = {**content, "decision": {}}
    wished = PredictRequest.model_validate(content)
    given = {name: getattr(wished, name) for name in OPTIONS}
    options = AnswerOptions(**{**given, "decision": decision})
    check_options(profile, options)
    return options


def _check_number(content: Mapping[str, object], profile: Mapping[str, Any]) -> None:
    """Refuse what would become an error each: unknown fields, and what should be a share for each class."""
    unknown = [name for name in content if name not in PredictRequest.model_fields]
    if len(unknown) > MOST_ERRORS:
        message = (
            f"{len(unknown)} unknown fields, {listed(unknown)}; known are {', '.join(PredictRequest.model_fields)}"
        )
        raise InvalidRequest("invalid_request", message, field=unknown[0][:100])
    for name in ("max_error", "coverage"):
        shares = content.get(name)
        most = len(profile["class_names"]) + 1
        if isinstance(shares, dict) and len(shares) > MOST_ERRORS:
            if len(shares) > most:
                raise InvalidRequest("invalid_request", f"{len(shares)} classes; at most {most}", field=name)
            if not set(map(type, shares.values())) <= {int, float}:
                raise InvalidRequest("invalid_request", "a share that is no number", field=name)


def _parse(body: bytes, content_type: str, query: bytes, profile: Mapping[str, Any], max_rows: int) -> Parsed:
    inputs, given = formats.read(content_type, query, body, profile, max_rows=max_rows)
    return inputs, _options({**given, "inputs": None}, profile) if given else _PLAIN


def _json(target: Target, outputs: Outputs, options: AnswerOptions) -> bytes:
    rows = answer(outputs, target.profile, options)
    return b'{"model":%b,"predictions":%b}' % (target.served, orjson.dumps(rows))
