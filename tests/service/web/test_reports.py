"""Pages of reports: drawn from the stored figures, never from the stored page; an earlier version's is linked."""

from __future__ import annotations

import json
from typing import Any

from tests.helpers.api import Api
from tests.helpers.documents import DEMO
from tests.helpers.staging import stage_bytes

PAGE = {"Accept": "text/html"}
HOSTILE = "<script>alert('1')</script>"


def job_with(api: Api, report: dict[str, Any]) -> str:
    """A job whose stored report is this one, and whose stored page says something else."""
    job = api.ordered()
    for field, content in {"report_sha256": json.dumps(report), "page_sha256": "<b>a stored page</b>"}.items():
        with stage_bytes(api.registry.artifacts, content.encode()) as staged, api.registry.write() as unit:
            setattr(unit.jobs.get(job), field, staged.keep())
    return job


def test_a_report_is_a_page_among_the_others(api: Api) -> None:
    """The sections and drawings of the file, within navigation, without styles or scripts in its markup."""
    answer = api.client.get(f"/jobs/{job_with(api, DEMO['report'])}/report", headers=PAGE)
    assert answer.status_code == 200
    text = answer.text
    for part in ("<h1>Calibration report of digits", "Without bins (CORP)", 'data-picture="race"', "/report.html"):
        assert part in text
    assert "a stored page" not in text
    assert ">Save" not in text, "its buttons are made by a script"
    assert "style=" not in text
    assert "<style" not in text
    assert text.count("<h1") == 1


def test_names_in_a_report_are_text(api: Api) -> None:
    """Foreign names of classes, candidates and slices are escaped, in drawings, too."""
    report = json.loads(json.dumps(DEMO["report"]))
    report["classes"]["rows"][0]["name"] = report["candidates"][0]["name"] = report["subject"]["model"]["name"] = (
        HOSTILE
    )
    text = api.client.get(f"/jobs/{job_with(api, report)}/report", headers=PAGE).text
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") > 3


def test_a_report_of_another_version_is_shown_by_its_own_page(api: Api) -> None:
    """Figures that are missing are no error: a sentence and the stored files."""
    older = {key: value for key, value in DEMO["report"].items() if key != "reliability"}
    odd = {**DEMO["report"], "subject": {"model": None, "dataset": None, "job_id": None, "created_at": "some day"}}
    for report in (older, odd):
        job = job_with(api, report)
        answer = api.client.get(f"/jobs/{job}/report", headers=PAGE)
        assert answer.status_code == 200
        assert f'href="/session/v1/jobs/{job}/report.html"' in answer.text
        assert "another version" in answer.text


def test_the_page_of_a_job_says_what_is_served_and_how_often_it_is_right(api: Api) -> None:
    """The two sentences of the report's advice, and each model's gap with chance; an earlier report says nothing."""
    text = api.client.get(f"/jobs/{job_with(api, DEMO['report'])}", headers=PAGE).text
    for sentence in DEMO["report"]["advice"]:
        assert f"<p>{sentence}</p>" in text
    cells = ('says">88.3 %', 'is right">89.8 %', 'gap, points">−1.5 ± 2.0')
    assert "</td>".join(f'<td data-label="{cell}' for cell in cells) in text
    older = {key: value for key, value in DEMO["report"].items() if key != "confidence_gap"}
    assert "88.3 %" not in api.client.get(f"/jobs/{job_with(api, older)}", headers=PAGE).text


def test_before_there_is_a_report_a_page_says_so(api: Api) -> None:
    """A job that has not ended has none, and a job or calibrator that is not there is unknown."""
    job = api.ordered()
    waiting = api.client.get(f"/jobs/{job}/report", headers=PAGE)
    assert (waiting.status_code, "has not ended yet" in waiting.text) == (409, True)
    for path in ("/jobs/job_none/report", "/calibrators/cal_none/report"):
        assert api.client.get(path, headers=PAGE).status_code == 404
