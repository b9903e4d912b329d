"""Reports, plans and events: what the demo stored is read and kept as it is; documents have the library's fields."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fedlas.deployment import Deployment
from fedlas.gate.gate import judge
from fedlas.report import Evidence, build_report
from service.registry.documents import CandidateEnded, DatasetProfile, Document, ModelProfile, Plan, Report
from service.registry.presenters import event_json
from service.registry.tables import Event, now
from tests.helpers.documents import DEMO

Json = dict[str, Any]


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
    row = Event(job_id="job_1", number=1, type="progress", at=now(), data=data)
    assert json.loads(event_json(row))["data"] == data


def test_a_report_with_every_section_is_a_document() -> None:
    """Groups, slices and a positive class add sections that the demo does not have."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 400)
    right = np.where(targets == 1, 0.8, 0.2) + rng.uniform(-0.15, 0.15, 400)
    probs = np.stack([1 - right, right], axis=1)
    groups = np.arange(400) // 4
    verdict = judge(
        uploaded=probs[:, ::-1], post_hoc=probs, trained=None, targets=targets, groups=groups, provenance="no", seed=0
    )
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
