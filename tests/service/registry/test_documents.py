"""Profiles, reports, plans and events: documents have the fields of the library, and what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fedlas.contract.base import Document
from fedlas.contract.events import CandidateEnded
from fedlas.contract.plan import Plan
from fedlas.contract.profiles import DatasetProfile, GuaranteesDocument, ImagePreprocessing, ModelProfile, ServingCost
from fedlas.contract.report import Report
from fedlas.contract.requests import JobRequest
from fedlas.deployment import Deployment
from fedlas.gate.gate import judge
from fedlas.guarantees import Guarantees
from fedlas.importers.onnx.cost.serving_cost import Measured
from fedlas.importers.onnx.cost.serving_cost import ServingCost as ComputedCost
from fedlas.preprocessing import Preprocessing
from fedlas.report import Evidence, build_report
from service.registry.presenters import event_json
from service.registry.tables import Event, now
from tests.helpers import Json
from tests.helpers.documents import DATASET_PROFILE, DEMO, MODEL_PROFILE


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1]])
def test_guarantees_are_what_the_library_writes(groups: list[int] | None) -> None:
    """The typed form holds all of `Guarantees.as_dict`, and the library reads it back."""
    probs = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]
    written = Guarantees.fit(probs, [0, 1, 1, 1], class_names=["a", "b"], groups=groups).as_dict()
    document = GuaranteesDocument.model_validate(written)
    assert document.stored() == written
    assert Guarantees.from_dict(document.model_dump()).as_dict() == written


def test_the_serving_cost_is_what_inspection_writes() -> None:
    """The typed form holds all of `ServingCost.as_dict`, measured or not."""
    plain = ComputedCost("unknown").as_dict()
    for written in (plain, ComputedCost("bounded", 1, 2, 3, {"x.1": 2.0}, Measured(4, 5, 0.5, "zeros")).as_dict()):
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


def test_a_report_with_every_section_is_a_document() -> None:
    """Groups, slices and a positive class add sections that the demo does not have."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 400)
    right = np.where(targets == 1, 0.8, 0.2) + rng.uniform(-0.15, 0.15, 400)
    probs = np.stack([1 - right, right], axis=1)
    groups = np.arange(400) // 4
    verdict = judge({"uploaded": probs[:, ::-1], "post_hoc": probs}, targets, groups=groups, provenance="no")
    evidence = Evidence(
        gate=verdict, uploaded=probs[:, ::-1], temperature=probs[:, ::-1], calibrated=probs, targets=targets,
        groups=groups, class_names=["no", "yes"], positive_class="yes", slices={"site": np.array(["a", "b"] * 200)},
        deployment=Deployment.fit(probs, probs[:, ::-1], targets, priors=np.array([0.9, 0.1])),
    )  # fmt: skip
    found = build_report(evidence, num_resamples=20).as_dict()
    assert found["slices"] is not None
    assert found["binary"] is not None
    assert found["class_priors"]["default"] == {"no": 0.9, "yes": 0.1}
    assert found["decisions"]["rows"][0]["argmax"]["recall"]["value"] > 0.9
    assert Report.arrived(found).stored() == found


def test_a_report_without_a_field_is_refused() -> None:
    """Every field of a report is promised."""
    for name in Report.model_fields:
        with pytest.raises(ValidationError):
            Report.model_validate({key: value for key, value in DEMO["report"].items() if key != name})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("verdict",), "excellent"),
        (("metrics", "calibrated", "nll", "value"), "low"),
        (("metrics", "calibrated", "unknown"), {}),
        (("reliability", "calibrated", "counts"), [0.5]),
        (("gate", "finalist"), "another"),
        (("classes", "rows"), [{}]),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_report_with_something_else_is_refused(place: tuple[str, ...], value: Any) -> None:
    """At every depth a report holds what the library's dataclasses say, and nothing else."""
    found = json.loads(json.dumps(DEMO["report"]))
    *outer, last = place
    part = found
    for name in outer:
        part = part[name]
    part[last] = value
    with pytest.raises(ValidationError):
        Report.model_validate(found)
