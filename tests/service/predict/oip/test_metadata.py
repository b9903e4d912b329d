"""Server and models are described in the words that clients look for."""

from __future__ import annotations

from typing import Any

import pytest

from service.predict.formats import oip_responses as responses
from service.predict.formats.oip_requests import InferenceRequest, RequestedOutput, always_there, chosen
from tests.helpers.oip_models import profile_of


def test_server() -> None:
    """Name, version and extensions as Triton names them."""
    found = responses.server_metadata("1.2")
    assert (found["name"], found["version"]) == ("fedlas", "1.2")
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(found["extensions"])


def test_model() -> None:
    """Inputs and outputs with their types and shapes; rows, and sizes that the model leaves open, are -1."""
    specs = [
        {"name": "ids", "dtype": "int64", "shape": ["N", "T", 2]},
        {"name": "x", "dtype": "float16", "shape": ["N", 64]},
    ]
    found = responses.model_metadata(profile_of(inputs=specs), "m", ["1", "2"])
    assert (found["name"], found["versions"], found["platform"]) == ("m", ["1", "2"], "onnxruntime_onnx")
    assert found["inputs"] == [
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1, 2]},
        {"name": "x", "datatype": "FP16", "shape": [-1, 64]},
    ]
    assert {output["name"]: (output["datatype"], output["shape"]) for output in found["outputs"]} == {
        "probabilities": ("FP32", [-1, 3]),
        "confidence": ("FP32", [-1]),
        "label": ("BYTES", [-1]),
        "index": ("INT64", [-1]),
        "logits": ("FP32", [-1, 3]),
        "features": ("FP32", [-1, 4]),
        "uncalibrated_confidence": ("FP64", [-1]),
        "abstain": ("BOOL", [-1]),
        "typicality": ("FP32", [-1]),
    }


@pytest.mark.parametrize("changes", [{}, {"typicality": None}, {"task": "binary", "class_names": ["a", "b"]}])
def test_all_that_is_listed_can_be_asked_for(changes: dict[str, Any]) -> None:
    """Tools ask for every output that the metadata names, and give no parameters."""
    profile = profile_of(**changes)
    outputs = responses.model_metadata(profile, "m", ["1"])["outputs"]
    wanted = tuple(RequestedOutput(output["name"]) for output in outputs)
    assert [output.name for output in wanted] == list(always_there(profile))
    assert chosen(InferenceRequest(None, {}, wanted, False, {}), profile) == wanted


def test_configuration() -> None:
    """A configuration is Triton's, without the dimension of rows; one value to a row is [1] reshaped to nothing."""
    found = responses.model_config(profile_of(), "m", max_rows=7)
    assert (found["name"], found["platform"], found["backend"]) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert found["max_batch_size"] == 7
    assert "dynamic_batching" in found
    assert found["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2, 3]}]
    outputs = {output.pop("name"): output for output in found["output"]}
    assert outputs["probabilities"] == {"data_type": "TYPE_FP32", "dims": [3]}
    assert outputs["label"] == {"data_type": "TYPE_STRING", "dims": [1], "reshape": {"shape": []}}
    assert outputs.keys() == set(always_there(profile_of()))
