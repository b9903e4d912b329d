"""Responses of the protocol: named arrays encoded in JSON and binary tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.inference.oip.datatypes import datatype_name
from service.inference.oip.requests import RequestedOutput
from service.inference.oip.tensors import packed


def encode(
    outputs: Mapping[str, np.ndarray],
    wanted: Sequence[RequestedOutput],
    *,
    name: str,
    version: str,
    id: str | None,
    class_priors: bytes | None = None,
) -> tuple[bytes, int | None]:
    """The body, and the length of the JSON at its beginning where binary tensors follow it (else None).

    `outputs` are arrays of any shape, of numbers that are finite, booleans or (dtype object) texts. Numbers in JSON are
    the shortest that are the same again when read as the output's datatype. `name` and `version` are the model's;
    `class_priors`, JSON, becomes a parameter, whose value the protocol wants to be a text.
    """
    tensors: list[dict[str, Any]] = []
    binary: list[bytes | memoryview] = []
    for output in wanted:
        array = outputs[output.name]
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype_name(array.dtype),
            "shape": array.shape,
        }
        if output.binary:
            binary.append(packed(array))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = _listed(array)
        tensors.append(tensor)
    content: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": tensors}
    if id is not None:
        content["id"] = id
    if class_priors is not None:
        content["parameters"] = {"class_priors": class_priors.decode()}
    header = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((header, *binary)), len(header)) if binary else (header, None)


def _listed(array: np.ndarray) -> np.ndarray | list[str]:
    """Flat, in row-major order."""
    flat = array.ravel()
    return flat.tolist() if flat.dtype == object else flat
