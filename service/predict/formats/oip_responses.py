"""Responses of the protocol: outputs in JSON and binary tensors, and metadata, also in the form of Triton's tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.predict.engine.metrics import Totals
from service.predict.engine.profile import ServingProfile
from service.predict.formats.oip_requests import RequestedOutput, always_there
from service.predict.formats.oip_tensors import BYTES, datatype_name, packed

Json = dict[str, Any]
PLATFORM = "onnxruntime_onnx"
#: In Triton's words, which clients look for.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)
_OUTPUT_TYPES: Mapping[str, str] = {
    "label": BYTES,
    "index": "INT64",
    "uncalibrated_confidence": "FP64",
    "abstain": "BOOL",
}


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
        tensor: dict[str, Any] = {"name": output.name, "datatype": datatype_name(array.dtype), "shape": array.shape}
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
    flat = array.ravel()
    return flat.tolist() if flat.dtype == object else flat


def server_metadata(version: str, extensions: Sequence[str] = EXTENSIONS) -> Json:
    return {"name": "fedlas", "version": version, "extensions": list(extensions)}


def model_metadata(profile: ServingProfile, name: str, versions: Sequence[str]) -> Json:
    """Answer of `GET /v2/models/{name}`: the inputs as numbers, and the outputs that need no parameter."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [
            {"name": spec.name, "datatype": datatype_name(spec.dtype), "shape": [-1, *_sizes(spec.row)]}
            for spec in profile.inputs
        ],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1, *row]} for output, datatype, row in _outputs(profile)
        ],
    }


def model_config(profile: ServingProfile, name: str, *, max_rows: int, provider: str | None = None) -> Json:
    """Answer of `GET /v2/models/{name}/config`: what Triton's tools read, without the batch dimension, as there.

    `provider` is ONNX Runtime's execution provider that the open session really has; None while it is not open.
    """
    kind = "KIND_CPU" if provider == "CPUExecutionProvider" else "KIND_GPU"
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "runtime": "",
        "version_policy": {"all": {}},
        "max_batch_size": max_rows,
        "input": [
            {"name": spec.name, **_configured(datatype_name(spec.dtype), _sizes(spec.row))} for spec in profile.inputs
        ],
        "output": [{"name": output, **_configured(datatype, row)} for output, datatype, row in _outputs(profile)],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0, "preserve_ordering": False},
        "instance_group": [] if provider is None else [{"name": provider, "kind": kind, "count": 1}],
        "default_model_filename": "",
        "parameters": {},
    }


def model_statistics(name: str, version: str, totals: Totals) -> Json:
    """Record of `GET /v2/models/{name}/stats`, in Triton's shape; times are nanoseconds."""

    def spent(count: int, seconds: float) -> Json:
        return {"count": count, "ns": round(seconds * 1e9)}

    not_measured = spent(0, 0)
    return {
        "name": name,
        "version": version,
        "last_inference": totals.last_request_at,
        "inference_count": totals.rows,
        "execution_count": totals.batches,
        "inference_stats": {
            "success": spent(totals.requests_ok, totals.request_seconds),
            "fail": spent(totals.requests_failed, totals.failed_seconds),
            "queue": spent(totals.batched_requests, totals.queue_seconds),
            "compute_input": not_measured,
            "compute_infer": spent(totals.batches, totals.compute_seconds),
            "compute_output": not_measured,
            "cache_hit": not_measured,
            "cache_miss": not_measured,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": not_measured,
                "compute_infer": spent(count, seconds),
                "compute_output": not_measured,
            }
            for rows, (count, seconds) in sorted(totals.batch_sizes.items())
        ],
    }


def _outputs(profile: ServingProfile) -> list[tuple[str, str, list[int]]]:
    classes = len(profile.class_names)
    rows: Mapping[str, list[int]] = {"probabilities": [classes], "logits": [classes], "features": [profile.features]}
    return [(name, _OUTPUT_TYPES.get(name, "FP32"), rows.get(name, [])) for name in always_there(profile)]


def _sizes(shape: Sequence[int | str]) -> list[int]:
    """Sizes that the model leaves open are -1."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _configured(datatype: str, row: list[int]) -> Json:
    """A configuration has no empty shapes: one value to a row is [1], reshaped to nothing."""
    kind = "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
    return {"data_type": kind, "dims": row} if row else {"data_type": kind, "dims": [1], "reshape": {"shape": []}}
