"""The raw binary request of Triton's binary tensor extension: a body of rows and nothing else."""

from __future__ import annotations

import math
from typing import NoReturn

from service.inference.oip.datatypes import DATATYPES, datatype_name
from service.inference.oip.requests import InferenceRequest
from service.inference.oip.tensors import from_binary
from service.inference.profile import ServingProfile
from service.registry.errors import InvalidRequest


def raw(body: bytes, profile: ServingProfile) -> InferenceRequest:
    """Rows of the only input, in the model's own type; the answer is binary, too.

    Raises InvalidRequest where the model has several inputs, where rows differ in length, and for a part of a row.
    """
    spec, *others = profile.inputs
    shape = [size for size in spec.row if isinstance(size, int)]
    if others or len(shape) < len(spec.row):
        needed = "a model with one input whose rows have one shape; send JSON with binary tensors behind it"
        _fail("invalid_request", f"Inference-Header-Content-Length is 0: the raw binary request needs {needed}")
    datatype = DATATYPES[datatype_name(spec.dtype)]
    of, row = f"input {spec.name!r}", math.prod(shape) * datatype.dtype.itemsize
    if not body or len(body) % row:
        _fail("wrong_size", f"{of}: the body has {len(body)} bytes, a row has {row}")
    inputs = {spec.name: from_binary(memoryview(body), datatype, (len(body) // row, *shape), of=of)}
    return InferenceRequest(id=None, inputs=inputs, wanted=None, binary=True, parameters={})


def _fail(code: str, message: str) -> NoReturn:
    raise InvalidRequest(code, message, field="inputs")
