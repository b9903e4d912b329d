"""Profiles of models and datasets: what today's code and the first release wrote, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedlas.guarantees import Guarantees as ComputedGuarantees
from fedlas.importers.onnx.sizes.interpreter import SizeBound
from fedlas.importers.onnx.sizes.serving_cost import Measured
from fedlas.importers.onnx.sizes.serving_cost import ServingCost as ComputedCost
from fedlas.preprocessing import Preprocessing
from service.registry.contract import JobRequest
from service.registry.documents import DatasetProfile, Guarantees, ImagePreprocessing, ModelProfile, ServingCost
from tests.helpers.documents import DATASET_PROFILE, MODEL_PROFILE

Json = dict[str, Any]


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1]])
def test_guarantees_are_what_the_library_writes(groups: list[int] | None) -> None:
    """The typed form holds all of `Guarantees.as_dict`, and the library reads it back."""
    probs = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    written = ComputedGuarantees.fit(probs, [0, 1, 1, 1], class_names=["a", "b"], groups=groups).as_dict()
    document = Guarantees.model_validate(written)
    assert document.stored() == written
    assert ComputedGuarantees.from_dict(document.model_dump()).as_dict() == written


def test_the_serving_cost_is_what_inspection_writes() -> None:
    """The typed form holds all of `ServingCost.as_dict`, measured or not."""
    plain = ComputedCost("unknown").as_dict()
    measured = ComputedCost(
        "bounded", (SizeBound("k", 7),), 1, 2, 3, {"x.1": 2.0}, Measured(4, 5, 0.5, "zeros")
    ).as_dict()
    for written in (plain, measured):
        assert ServingCost.model_validate(written).stored() == json.loads(json.dumps(written))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"resize": [32, 64], "channels": 1, "bit_depth": 16, "interpolation": "box", "layout": "NHWC"},
        {"dtype": "uint8", "order": "BGR"},
        {"scale": 1, "mean": 128},
    ],
)
def test_preprocessing_is_what_the_library_writes(given: Json) -> None:
    """An answer shows exactly the fields that `Preprocessing.as_dict` writes."""
    written = Preprocessing.parse(given).as_dict()
    assert ImagePreprocessing.model_validate(written).model_dump(mode="json") == written


def test_profiles_of_the_first_release_are_read() -> None:
    """What was added later is absent and stays absent in what is stored."""
    profile = ModelProfile.model_validate({**MODEL_PROFILE, "positive_class": None})
    assert (profile.cost, profile.guarantees, profile.preprocessing, profile.warnings) == (None, None, None, [])
    assert profile.stored() == {**MODEL_PROFILE, "positive_class": None}
    assert DatasetProfile.model_validate(DATASET_PROFILE).stored() == DATASET_PROFILE


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (ModelProfile, {**MODEL_PROFILE, "id": "another"}),
        (ModelProfile, {**MODEL_PROFILE, "task": "regression"}),
        (ModelProfile, {**MODEL_PROFILE, "cost_factor": float("nan")}),
        (ModelProfile, {**MODEL_PROFILE, "class_names": ["\ud800", "b"]}),
        (ModelProfile, {**MODEL_PROFILE, "warnings": ["\0"]}),
        (DatasetProfile, {**DATASET_PROFILE, "roles": {"label": "y", "colour": "z"}}),
        (DatasetProfile, {**DATASET_PROFILE, "seen_by_model": None}),
        (DatasetProfile, {}),
    ],
)
def test_what_arrives_is_the_document_or_an_error(document: type[ModelProfile | DatasetProfile], found: Json) -> None:
    """Unknown fields, missing fields, numbers that are none and text that no database stores are refused."""
    with pytest.raises(ValueError, match=document.__name__):
        document.arrived(found)


@pytest.mark.parametrize(
    "stored",
    [
        {**MODEL_PROFILE, "novelty": {"a": 1}},
        {**MODEL_PROFILE, "output": {**MODEL_PROFILE["output"], "unit": "nats"}},
        {**MODEL_PROFILE, "inputs": [{**entry, "unit": "mm"} for entry in MODEL_PROFILE["inputs"]]},
    ],
    ids=["profile", "nested", "list"],
)
def test_what_another_release_stored_can_be_read(stored: Json) -> None:
    """Fields that this release does not know are passed over at any depth; from a child the same are refused."""
    assert ModelProfile.read(stored) == ModelProfile.read(MODEL_PROFILE)
    with pytest.raises(ValueError, match="Extra inputs"):
        ModelProfile.arrived(stored)


def test_an_order_that_another_release_stored_can_be_read() -> None:
    """A job that was ordered of a newer release keeps what this one knows; from a client the same is refused."""
    asked = {"model_id": "mdl_1", "dataset_id": "ds_1", "gate": {"score": "nll", "patience": 3}, "colour": "red"}
    assert JobRequest.read(asked).gate.score == "nll"
    with pytest.raises(ValueError, match="Extra inputs"):
        JobRequest.model_validate(asked)
