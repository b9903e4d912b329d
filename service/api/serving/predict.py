"""`POST /v1/models/{model}/predict`: rows in any format become predictions one can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from pydantic_core import from_json

from service.api.predictions import OPTIONS, PredictRequest
from service.api.serving.exchange import Answer
from service.api.serving.lane import SMALL_BYTES, Call, Serving
from service.catalogue import Target
from service.inference import formats
from service.inference.answers import AnswerOptions, abstentions, answer, check_options
from service.inference.formats.options import from_query, merged
from service.inference.inputs import parse_inputs
from service.inference.outputs import Outputs
from service.registry.errors import InvalidRequest

#: A body without a type, or sent by a tool that names one for forms, is taken for what it most likely is.
_JSON = frozenset({"", "application/json", "text/json", "text/plain", "application/x-www-form-urlencoded"})
_PLAIN = AnswerOptions()
_PLAIN_KEYS = {"inputs"}

Parsed = tuple[dict[str, np.ndarray], AnswerOptions]


async def predict(serving: Serving, call: Call) -> Answer:
    """Answer one request."""
    request = call.request
    body = await serving.body(call)
    target, line = await serving.find(call)
    body = await serving.unpacked(call, body)
    profile, most = target.profile, serving.settings.max_predict_rows
    if request.content_type in _JSON:
        small = 0 if profile.get("preprocessing") else SMALL_BYTES
        inputs, options = await serving.read(call, body, parse_json, profile, most, request.query, small=small)
    else:
        content_type = request.headers[b"content-type"].decode("latin-1")
        small = 0 if profile.get("preprocessing") else SMALL_BYTES  # a file of 100 bytes may have 50 million pixels
        inputs, options = await serving.read(
            call, body, _parse, content_type, request.query, profile, most, small=small
        )
    outputs = await serving.run(call, line, inputs, target.wants)
    found = Answer(await serving.write(call, outputs, _json, target, outputs, options))
    call.abstained = abstentions(outputs, profile, options)
    return found


def parse_json(body: bytes, profile: Mapping[str, Any], max_rows: int, query: bytes = b"") -> Parsed:
    """Read JSON, and options of a query string; raises InvalidRequest, TooLarge or pydantic's ValidationError."""
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
        raise InvalidRequest("invalid_json", f"the body is not valid JSON: {error}") from error


def _options(content: Mapping[str, object], profile: Mapping[str, Any]) -> AnswerOptions:
    wished = PredictRequest.model_validate(content)
    options = AnswerOptions(**{name: getattr(wished, name) for name in OPTIONS})
    check_options(profile, options)
    return options


def _parse(body: bytes, content_type: str, query: bytes, profile: Mapping[str, Any], max_rows: int) -> Parsed:
    inputs, given = formats.read(content_type, query, body, profile, max_rows=max_rows)
    return inputs, _options({**given, "inputs": None}, profile) if given else _PLAIN


def _json(target: Target, outputs: Outputs, options: AnswerOptions) -> bytes:
    rows = answer(outputs, target.profile, options)
    return b'{"model":%b,"predictions":%b}' % (target.served, orjson.dumps(rows))
