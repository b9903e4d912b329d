"""Reports, plans and events: what the demo stored is read and kept as it is; documents have the library's fields."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from fedlas.gate.gate import judge
from fedlas.report import Evidence, build_report
from fedlas.report import document as written
from fedlas.report.guarantees import CoverageLevel, ErrorLevel
from fedlas.report.guarantees import GuaranteeTable as WrittenGuarantees
from service.registry.documents import CandidateEnded, DatasetProfile, Document, ModelProfile, Plan, Report
from service.registry.documents import report_tables as tables
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


PAIRS = [
    (written.CalibrationReport, Report),
    (written.ConfidenceSummary, tables.ConfidenceSummary),
    (written.Reliability, tables.Reliability),
    (written.RiskCoverageSection, tables.RiskCoverage),
    (written.NamedClassRow, tables.ClassRow),
    (written.PositiveClassSection, tables.PositiveClass),
    (ErrorLevel, tables.ErrorLevel),
    (CoverageLevel, tables.CoverageLevel),
    (WrittenGuarantees, tables.GuaranteeTable),
]


@pytest.mark.parametrize(("source", "document"), PAIRS)
def test_documents_have_the_fields_that_the_library_writes(source: Any, document: type[BaseModel]) -> None:
    """A field that is added to the library's report is added to the document."""
    keys = {part.metadata.get("key", part.name) for part in dataclasses.fields(source)}
    assert {info.alias or name for name, info in document.model_fields.items()} == keys


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
    )  # fmt: skip
    found = build_report(evidence, num_resamples=20).as_dict()
    assert found["slices"] is not None
    assert found["binary"] is not None
    assert Report.arrived(found).stored() == found


def test_a_report_without_a_field_is_refused() -> None:
    """Every field of a report is promised."""
    for name in Report.model_fields:
        with pytest.raises(ValidationError):
            Report.model_validate({key: value for key, value in DEMO["report"].items() if key != name})
