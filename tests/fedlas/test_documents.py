"""Documents: what was written as JSON is read as the same dataclass; what is missing or of another kind is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedlas.contract.figures import BinnedEstimate, Estimate
from fedlas.contract.report import Subject
from fedlas.documents import from_json
from fedlas.report import report_from_json, report_html
from tests.helpers.documents import DEMO
from tests.helpers.reports import content, example


@pytest.mark.parametrize("document", [DEMO["report"], content()], ids=["demo", "drawn"])
def test_a_report_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    """Its JSON is the same again, field by field, through a file."""
    assert report_from_json(json.loads(json.dumps(document))).as_dict() == document


def test_a_page_of_what_was_read_is_the_page_of_what_was_written() -> None:
    """Nothing that a page shows gets lost on the way through JSON."""
    assert report_html(report_from_json(content())) == report_html(example()[0])


def test_of_several_dataclasses_the_one_whose_fields_are_there_is_read() -> None:
    """An ECE has a noise floor, an accuracy has an interval."""
    metrics = report_from_json(content()).metrics["uploaded"]
    assert isinstance(metrics["ece"], BinnedEstimate)
    assert isinstance(metrics["accuracy"], Estimate)


def test_what_another_version_wrote_is_refused_by_the_name_of_its_field() -> None:
    """A field that is missing is named with its place, one of another kind as well; what is more is passed over."""
    older = json.loads(json.dumps(DEMO["report"]))
    del older["reliability"]["temperature"]["corp"]
    with pytest.raises(ValueError, match=r"CalibrationReport\.reliability\.temperature has no 'corp'"):
        report_from_json(older)
    with pytest.raises(ValueError, match=r"Subject\.model must be Mapping, found list"):
        from_json(Subject, {"model": []})
    with pytest.raises(ValueError, match=r"Estimate\.low must be a number, found str"):
        from_json(Estimate, {"value": 1, "low": "no", "high": 2})
    assert from_json(Subject, {"job_id": "job_1", "later": 1}) == Subject(job_id="job_1")
