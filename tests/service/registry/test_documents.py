"""Profiles, reports, plans and events: documents have the fields of the library, and what is none is refused."""

from __future__ import annotations

import json

import pytest

from fedlas.contract.base import Document
from fedlas.contract.events import CandidateEnded
from fedlas.contract.plan import Plan
from fedlas.contract.profiles import DatasetProfile, ImagePreprocessing, ModelProfile
from fedlas.contract.report import Report
from fedlas.contract.requests import JobRequest
from fedlas.preprocessing import Preprocessing
from service.registry.presenters import event_json
from service.registry.tables import Event, now
from tests.helpers import Json
from tests.helpers.documents import DATASET_PROFILE, DEMO, MODEL_PROFILE


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


def test_what_a_profile_lacks_stays_absent() -> None:
    """A field without a value has its default, and is not stored."""
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
        (Report, {**DEMO["report"], "verdict": "excellent"}),
        (Report, {**DEMO["report"], "gate": {**DEMO["report"]["gate"], "unknown": 1}}),
        (Report, {**DEMO["report"], "metrics": {**DEMO["report"]["metrics"], "calibrated": {"nll": {"value": "low"}}}}),
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
    """A job that was created by a newer release keeps what this one knows; from a client the same is refused."""
    asked = {"model_id": "mdl_1", "dataset_id": "ds_1", "gate": {"score": "nll", "patience": 3}, "colour": "red"}
    assert JobRequest.read(asked).gate.score == "nll"
    with pytest.raises(ValueError, match="Extra inputs"):
        JobRequest.model_validate(asked)


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (Report, DEMO["report"]),
        (Plan, DEMO["plan"]),
        (DatasetProfile, DEMO["dataset"]),
        *((ModelProfile, profile) for profile in DEMO["models"]),
        *((CandidateEnded, data) for data in DEMO["events"] if "seconds" in data),
    ],
)
def test_what_a_run_of_the_demo_stored_is_kept_as_it_is(document: type[Document], found: Json) -> None:
    """The typed form of every stored document is its JSON again, field by field."""
    assert document.arrived(found).stored() == found
    assert document.model_validate_json(json.dumps(found)).model_dump(mode="json") == {
        **document.arrived(found).model_dump(mode="json")
    }


@pytest.mark.parametrize("data", [*DEMO["events"], {"reason": "its worker went silent"}, {"note": "an old one"}, {}])
def test_events_show_what_is_stored(data: Json) -> None:
    """The data of an event has the stored fields and no others, whatever wrote them."""
    assert json.loads(event_json(Event(job_id="job_1", number=1, type="progress", at=now(), data=data)))["data"] == data
