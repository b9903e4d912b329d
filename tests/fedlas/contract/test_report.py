"""The report as a document: what was written as JSON is read again, and what another version wrote is named."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fedlas.contract.figures import BinnedEstimate, Estimate
from fedlas.contract.report import Report, Subject
from fedlas.report import report_html
from tests.helpers.documents import DEMO
from tests.helpers.reports import content, example


@pytest.mark.parametrize("document", [DEMO["report"], content()], ids=["demo", "drawn"])
def test_a_report_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    """A report that went through a file has equal JSON, field by field."""
    assert Report.read(json.loads(json.dumps(document))).as_dict() == document


def test_a_page_of_what_was_read_is_the_page_of_what_was_written() -> None:
    """Nothing that a page shows gets lost on the way through JSON."""
    assert report_html(Report.read(content())) == report_html(example()[0])


def test_of_several_figures_the_one_whose_fields_are_there_is_read() -> None:
    """An ECE has a noise floor, an accuracy has an interval."""
    metrics = Report.read(content()).metrics.uploaded
    assert isinstance(metrics.ece, BinnedEstimate)
    assert isinstance(metrics.accuracy, Estimate)


def test_a_figure_that_does_not_exist_is_null_in_json_and_nan_in_python() -> None:
    """NaN and infinity have no word in JSON; null is NaN again, so that code calculates without asking."""
    figure = Estimate(value=math.nan, low=-math.inf, high=1.0)
    assert figure.model_dump_json() == '{"value":null,"low":null,"high":1.0}'
    read = Estimate.model_validate_json(figure.model_dump_json())
    assert (math.isnan(read.value), math.isnan(read.low), read.high) == (True, True, 1.0)


def test_a_report_of_another_version_is_refused_by_the_name_of_its_field() -> None:
    """A field that is missing is named with its place, one of another kind as well; what is more is passed over."""
    older = json.loads(json.dumps(DEMO["report"]))
    del older["reliability"]["temperature"]["corp"]
    with pytest.raises(ValueError, match=r"reliability\.temperature\.corp\n  Field required"):
        Report.read(older)
    with pytest.raises(ValueError, match=r"low\n  Input should be a valid number"):
        Estimate.read({"value": 1, "low": "no", "high": 2})
    assert Subject.read({"job_id": "job_1", "later": 1}) == Subject(job_id="job_1")
