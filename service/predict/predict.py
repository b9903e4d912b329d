"""The handler of `POST /v1/models/{model}/predict`: rows in any format become predictions to act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import orjson
from pydantic_core import from_json

from fedlas.contract.options import AnswerOptions
from service.http.problems import MAX_ERRORS
from service.predict.call import SMALL_BYTES, InferenceCall
from service.predict.engine.profile import ServingProfile
from service.predict.formats import request_formats
from service.predict.formats.answers import FEW_ANSWER_BYTES, of_npy, of_predictions, write_json, write_npy
from service.predict.formats.json_inputs import (
    FEW_BYTES,
    NAMES,
    check_json,
    collector_paused,
    from_query,
    listed,
    merged,
)
from service.predict.formats.predictions import DecisionPolicy, Predictions, without_options
from service.predict.formats.signature import parse_inputs
from service.predict.messages import Answer
from service.registry.errors import InvalidRequest

_JSON = "application/json"
#: The matrix of probabilities, where `Accept` names it.
_NPY = b"application/x-npy"

Parsed = tuple[dict[str, np.ndarray], DecisionPolicy]


async def predict(call: InferenceCall) -> Answer:
    request = call.request
    settings, kind, query = call.settings, request.content_type, request.scope["query_string"]
    is_json = kind == _JSON or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json and kind not in request_formats.UNTOLD:
        request_formats.check_type(kind)
    limit = settings.max_predict_json_bytes if is_json else settings.max_predict_bytes
    body = await call.body(limit, json=is_json)
    model, queue = await call.find()
    body = await call.decompressed(body, limit, json=is_json)
    profile, most = model.profile, settings.max_predict_rows
    small = 0 if profile.preprocessing else SMALL_BYTES  # a file of 100 bytes may have 50 million pixels
    if is_json:
        inputs, policy = await call.read(body, parse_json, profile, most, query, limit, small=small)
    else:
        inputs, policy = await call.read(body, _parse, _content_type(call, body), query, profile, most, small=small)
    as_npy = _NPY in request.headers.get(b"accept", b"")
    policy = _of_matrix(policy) if as_npy else policy
    rows, sizes = len(next(iter(inputs.values()))), profile.label_sizes
    if rows * sizes.most > FEW_ANSWER_BYTES:
        of_json = of_predictions(sizes, policy.options, shifted=policy.shifts)
        call.expect_answer(rows, of_npy(sizes, shifted=policy.shifts) if as_npy else of_json)
    outputs = await call.run(queue, inputs, policy.taken_outputs)
    predictions = Predictions(outputs, policy)
    if as_npy:
        return Answer(await call.write(outputs, write_npy, predictions), _NPY)
    answer = Answer(await call.write(outputs, write_json, predictions, model.served))
    call.abstained = predictions.abstained
    return answer


def _of_matrix(policy: DecisionPolicy) -> DecisionPolicy:
    """The policy of an answer that is nothing but probabilities; raises where something else is asked for, too."""
    others = [name for name, value in policy.options if value is not None and name != "class_priors"]
    if strange := [name for name in others if name != "probabilities" or policy.options.probabilities is False]:
        message = f"an answer in npy has the probabilities alone; {strange[0]} is answered in JSON: leave out Accept"
        raise InvalidRequest("invalid_request", message, field=strange[0])
    return replace(policy, options=policy.options.model_copy(update={"probabilities": True}))


def _content_type(call: InferenceCall, body: bytes) -> str:
    """The header with its parameters, or the content's type where it says nothing; raises UnsupportedFormat."""
    if call.request.content_type not in request_formats.UNTOLD:
        return call.request.headers[b"content-type"].decode("latin-1")
    told = request_formats.told_by_content(body)
    if told is None:
        request_formats.check_type(call.request.content_type)
    return told or ""


def parse_json(
    body: bytes, profile: ServingProfile, max_rows: int, query: bytes = b"", limit: int = 8 * 1024**2
) -> Parsed:
    """Read JSON of at most `limit` bytes, and options of a query string.

    Raises InvalidRequest, TooLarge or pydantic's ValidationError.
    """
    check_json(body, limit=limit)
    if len(body) <= FEW_BYTES:
        return _read_json(body, profile, max_rows, query)
    with collector_paused():
        return _read_json(body, profile, max_rows, query)


def _read_json(body: bytes, profile: ServingProfile, max_rows: int, query: bytes) -> Parsed:
    content = _loaded(body)
    if not isinstance(content, dict) or "inputs" not in content:
        raise InvalidRequest("invalid_request", 'the body must be a JSON object with "inputs"', field="inputs")
    rows = content.pop("inputs")
    if query:
        content |= merged(from_query(query), {name: content[name] for name in NAMES if name in content})
    policy = _policy(content, profile)
    return parse_inputs(rows, profile, max_rows=max_rows, text=body), policy


def _loaded(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        # NaN is let through here, so that the answer can name the row that holds it; integers may be of any size.
        return from_json(body, allow_inf_nan=True)
    except ValueError as error:
        told = request_formats.told_by_content(body)
        reason = str(error)[:300] if told is None else f"send this file with 'Content-Type: {told}'"
        raise InvalidRequest("invalid_json", f"the body is not valid JSON: {reason}") from error


def _policy(given: Mapping[str, object], profile: ServingProfile) -> DecisionPolicy:
    if not given:
        return without_options(profile)
    if len(given) <= len(NAMES) and set(map(type, given.values())) <= {int, float, bool}:
        return _policy_of_numbers(profile, *given, *given.values())
    _check_number(given, profile)
    decision = given.get("decision")
    if not isinstance(decision, dict):
        return DecisionPolicy.of(profile, AnswerOptions.model_validate(given))
    options = AnswerOptions.model_validate({**given, "decision": {}})
    # JSON it is, and the policy checks it against the model's classes.
    return DecisionPolicy.of(profile, options.model_copy(update={"decision": decision}))


@lru_cache(maxsize=256, typed=True)
def _policy_of_numbers(profile: ServingProfile, *names_and_values: object) -> DecisionPolicy:
    """The policy of options that are numbers and truths: clients ask for the same ones again and again."""
    count = len(names_and_values) // 2
    options = dict(zip(names_and_values[:count], names_and_values[count:], strict=True))
    return DecisionPolicy.of(profile, AnswerOptions.model_validate(options))


def _check_number(content: Mapping[str, object], profile: ServingProfile) -> None:
    """Refuse what would become an error each: unknown fields, and what should be a share for each class."""
    unknown = [name for name in content if name not in NAMES]
    if len(unknown) > MAX_ERRORS:
        message = f"{len(unknown)} unknown fields, {listed(unknown)}; known are inputs, {', '.join(NAMES)}"
        raise InvalidRequest("invalid_request", message, field=unknown[0][:100])
    for name in ("max_error", "coverage", "class_priors"):
        shares = content.get(name)
        most = len(profile.class_names) + 1
        if isinstance(shares, dict) and len(shares) > MAX_ERRORS:
            if len(shares) > most:
                raise InvalidRequest("invalid_request", f"{len(shares)} classes; at most {most}", field=name)
            if not set(map(type, shares.values())) <= {int, float}:
                raise InvalidRequest("invalid_request", "a share that is no number", field=name)


def _parse(body: bytes, content_type: str, query: bytes, profile: ServingProfile, max_rows: int) -> Parsed:
    inputs, given = request_formats.read(content_type, query, body, profile, max_rows=max_rows)
    return inputs, _policy(given, profile)
