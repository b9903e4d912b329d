"""The handler of `POST /v2/models/{model}[/versions/{version}]/infer`, in JSON and binary tensors."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from service.predict.call import SMALL_BYTES, InferenceCall
from service.predict.engine.profile import ServingProfile
from service.predict.formats.answers import FEW_ANSWER_BYTES, of_tensors, tensors
from service.predict.formats.json_inputs import FEW_BYTES, check_json, collector_paused
from service.predict.formats.oip_requests import (
    InferenceRequest,
    RequestedOutput,
    aligned,
    chosen,
    decode,
    options,
    raw,
    taken_outputs,
)
from service.predict.formats.oip_responses import encode
from service.predict.formats.predictions import DecisionPolicy, Predictions
from service.predict.messages import Answer, Header
from service.predict.served_folder import ResolvedModel
from service.registry.errors import InvalidRequest, UnsupportedFormat

#: Any web page can send these without a preflight request.
_FORMS = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
_SMALL_TENSORS = 1024 * 1024
_HEADER_LENGTH = b"inference-header-content-length"
#: Only for clients that accept just one of them: for libraries that accept anything compression takes longer than it
#: saves. Level 1: in data centres compression is slower than the network at any level.
_PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": partial(gzip.compress, compresslevel=1),
    b"deflate": partial(zlib.compress, level=1),
}

Parsed = tuple[InferenceRequest, dict[str, np.ndarray], tuple[RequestedOutput, ...], DecisionPolicy]


async def infer(call: InferenceCall) -> Answer:
    headers, settings = call.request.headers, call.settings
    length = _header_length(headers.get(_HEADER_LENGTH))
    _check_type(call.request.content_type)
    is_json = length is None
    limit = settings.max_predict_json_bytes if is_json else settings.max_predict_bytes
    body = await call.body(limit, json=is_json)
    model, queue = await call.find()
    body = await call.decompressed(body, limit, json=is_json)
    asked, inputs, wanted, policy = await call.read(
        body,
        parse,
        length,
        model.profile,
        settings.max_predict_rows,
        settings.max_predict_json_bytes,
        small=_small(length, model.profile),
    )
    _shorten(call, asked)
    rows = len(next(iter(inputs.values())))
    sizes = model.profile.label_sizes
    if rows * sizes.most > FEW_ANSWER_BYTES:
        call.expect_answer(rows, of_tensors(sizes, policy.options, wanted, shifted=policy.shifts))
    outputs = await call.run(queue, inputs, taken_outputs(wanted, shifted=policy.shifts))
    predictions = Predictions(outputs, policy)
    content, json_length = await call.write(outputs, _write, model, asked, wanted, predictions)
    call.abstained = predictions.abstained
    accepted = headers.get(b"accept-encoding", b"").strip().lower()
    if accepted in _PACKED:
        content = await call.read(content, _PACKED[accepted])
    return _answer(content, json_length, accepted)


def parse(
    body: bytes, length: int | None, profile: ServingProfile, max_rows: int, json_limit: int = 8 * 1024**2
) -> Parsed:
    """Read a body with at most `json_limit` bytes of JSON; raises InvalidRequest or TooLarge."""
    if length is None or length <= len(body):
        check_json(body, limit=json_limit, length=length)
    if (len(body) if length is None else length) <= FEW_BYTES:
        return _read(body, length, profile, max_rows)
    with collector_paused():
        return _read(body, length, profile, max_rows)


def _read(body: bytes, length: int | None, profile: ServingProfile, max_rows: int) -> Parsed:
    asked = raw(body, profile) if length == 0 else decode(body, length)
    policy = DecisionPolicy.of(profile, options(asked.parameters))
    return asked, aligned(asked, profile, max_rows=max_rows), chosen(asked, profile), policy


def _write(
    model: ResolvedModel, asked: InferenceRequest, wanted: tuple[RequestedOutput, ...], predictions: Predictions
) -> tuple[bytes, int | None]:
    arrays = tensors(predictions, wanted)
    said = predictions.policy.shift.said
    return encode(arrays, wanted, name=model.called, version=model.version, id=asked.id, class_priors=said)


def _check_type(kind: str) -> None:
    """Refuse the types that browsers send without asking first; clients of the protocol name JSON, bytes or nothing."""
    if kind in _FORMS:
        message = f"{kind!r} is not understood: send 'Content-Type: application/json', or application/octet-stream"
        raise UnsupportedFormat("unsupported_media_type", message)


def _header_length(given: bytes | None) -> int | None:
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        message = f"Inference-Header-Content-Length must be a number of bytes, found {given[:40].decode('latin-1')!r}"
        raise InvalidRequest("invalid_request", message)
    return int(given)


def _small(length: int | None, profile: ServingProfile) -> int:
    """How large a body may be that is read at once: never one of image files, and more where it is binary tensors."""
    if profile.preprocessing is not None:
        return 0
    return _SMALL_TENSORS if length is not None and length <= SMALL_BYTES else SMALL_BYTES


def _shorten(call: InferenceCall, asked: InferenceRequest) -> None:
    """Triton's parameter `timeout`, in microseconds, as its clients send it; 0 means none."""
    timeout = asked.parameters.get("timeout")
    if timeout is None:
        return
    if isinstance(timeout, bool | str) or timeout < 0:
        message = f"parameter 'timeout' must be microseconds, found {timeout!r:.40}"
        raise InvalidRequest("invalid_request", message, field="parameters")
    if timeout > 0:
        call.until = min(call.until, call.arrived + timeout / 1e6)


def _answer(content: bytes, json_length: int | None, accepted: bytes) -> Answer:
    headers: list[Header] = []
    if json_length is not None:
        headers.append((_HEADER_LENGTH, b"%d" % json_length))
    if accepted in _PACKED:
        headers.append((b"content-encoding", accepted))
    return Answer(content, b"application/json" if json_length is None else b"application/octet-stream", 200, headers)
