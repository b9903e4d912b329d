"""The pages of jobs, as a browser without a script reads them."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.helpers.api import Api, Json

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def browser(api: Api) -> TestClient:
    """A browser on a service without keys."""
    headers = {"Accept": "text/html", "Origin": "http://localhost"}
    return TestClient(api.client.app, base_url="http://localhost", headers=headers, follow_redirects=False)


def ordered(api: Api, *, name: str = "mine", **options: Any) -> Json:
    """A job that waits for the inspection of its files."""
    model = api.post(f"/v1/models?name={name}", content=b"model")
    dataset = api.post(f"/v1/datasets?name=rows of {name}", content=b"rows")
    return api.post("/v1/jobs", json={"model_id": model["id"], "dataset_id": dataset["id"], **options})


def test_the_list_is_filtered_and_paged_by_its_address(api: Api, browser: TestClient) -> None:
    """Filters, the way to older jobs and the form itself say the same; a part of the page is the list alone."""
    jobs = [ordered(api, name="first", publish_as="ours")["id"], *(ordered(api)["id"] for _ in range(26))]
    newest = browser.get("/jobs")
    assert jobs[-1] in newest.text
    assert jobs[0] not in newest.text
    older = browser.get(f"/jobs?after={jobs[2]}").text
    assert f'href="/jobs?after={jobs[2]}"' in newest.text
    assert jobs[0] in older
    assert 'href="/jobs"' in older
    found = browser.get("/jobs?status=queued&name=first").text
    assert jobs[0] in found
    assert jobs[1] not in found
    assert "publish as ours" in found
    assert "<option selected>queued</option>" in found
    assert 'value="first"' in found
    part = browser.get("/jobs?status=&name=", headers={"HX-Request": "true"}).text
    assert jobs[-1] in part
    assert "<html" not in part


def test_dry_runs_have_a_list_of_their_own(api: Api, browser: TestClient) -> None:
    """Lists of jobs leave them out, of a dataset and on the first page too; the filter shows them alone."""
    job = ordered(api)
    body = {"model_id": job["model_id"], "dataset_id": job["dataset_id"]}
    dry = api.post("/v1/jobs?dry_run=true", json=body)["id"]
    for path in ("/jobs", "/", f"/datasets/{job['dataset_id']}", f"/models/{job['model_id']}"):
        page = browser.get(path).text
        assert (f"/jobs/{job['id']}" in page, f"/jobs/{dry}" in page) == (True, False), path
    page = browser.get("/jobs?kind=dry_run").text
    assert (f"/jobs/{job['id']}" in page, f"/jobs/{dry}" in page) == (False, True)
    assert "No dry run has the status failed." in browser.get("/jobs?kind=dry_run&status=failed").text


def test_an_empty_list_says_what_to_do(api: Api, browser: TestClient) -> None:
    """No job, none found, and a status that there is none of are three different things."""
    assert "No job was created yet" in browser.get("/jobs").text
    assert "No job of a model called “a” has the status failed." in browser.get("/jobs?status=failed&name=a").text
    assert "There are no older jobs." in browser.get("/jobs?after=job_00000000000000000000000000").text
    wrong = browser.get("/jobs?status=lost")
    assert wrong.status_code == 422
    assert "lost" in wrong.text


def test_a_job_says_what_it_is_and_what_was_ordered(api: Api, browser: TestClient) -> None:
    """Model, dataset, id, the order in sentences; names are text, whatever they look like."""
    job = ordered(api, name=HOSTILE, metadata={HOSTILE: HOSTILE}, budget={"minutes": 5, "candidates": 1})
    page = browser.get(f"/jobs/{job['id']}").text
    assert "Calibration of &lt;script&gt;" in page
    assert "<script>alert" not in page
    assert job["id"] in page
    assert "within 5 minutes and 1 candidate" in page
    assert "Waiting for a worker." in page


def test_a_job_is_cancelled_and_deleted_by_forms(api: Api, browser: TestClient) -> None:
    """Each leads on; a second time the page says that it is too late, and of what is gone that it is gone."""
    at = f"/jobs/{ordered(api)['id']}"
    too_early = browser.post(f"{at}/delete")
    assert too_early.status_code == 409
    assert "can be deleted once it has ended" in too_early.text
    assert browser.post(f"{at}/cancel").headers["location"] == at
    assert "Cancelled: nothing was published" in browser.get(at).text
    again = browser.post(f"{at}/cancel")
    assert again.status_code == 409
    assert "has already cancelled" in again.text
    assert browser.post(f"{at}/delete").headers["location"] == "/jobs"
    gone = browser.get(at)
    assert gone.status_code == 404
    assert "or it was deleted" in gone.text
    assert browser.post(f"{at}/cancel").status_code == 404


def test_a_failed_job_says_why_and_what_to_do(api: Api, browser: TestClient) -> None:
    """The code, what was found, and what comes next."""
    job = ordered(api)
    with api.registry.write() as unit:
        error = {"code": "model_rejected", "message": "the model was rejected", "user_error": True}
        unit.jobs.fail(unit.jobs.get(job["id"]), error)
    page = browser.get(f"/jobs/{job['id']}").text
    assert "<code>model_rejected</code>" in page
    assert "Inspection has rejected the model." in page
    assert "calibrate again" in page
