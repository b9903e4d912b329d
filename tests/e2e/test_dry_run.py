"""A dry run tells everything that a job would find out before it trains, and leaves no trace but its record."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.service import Json, Service, until
from tests.helpers.uploads import Uploads, digits_npz
from tests.helpers.uploads import digits as all_digits

FOUND = {"features", "labels", "leakage", "splits", "estimate", "detectable_effect"}


def dry_run(service: Service, model_id: str, dataset_id: str, **options: Any) -> Json:
    """Order a dry run and wait for its end."""
    body = {"model_id": model_id, "dataset_id": dataset_id, **options}
    answer = service.client.post("/v1/jobs", params={"dry_run": "true"}, json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["dry_run"] is True
    return service.ended(answer.json()["id"])


@pytest.fixture(scope="module")
def others(service: Service) -> Json:
    """The digits with one row less: a file without an earlier look."""
    rows, targets, splits = all_digits()
    return service.inspected("datasets", digits_npz(x=rows[1:], label=targets[1:], split=splits[1:]))


def test_the_plan(service: Service, digits: tuple[Json, Json], others: Json) -> None:
    """The record has the plan and no verdict; there is no report, nothing is published and no look is taken."""
    model = digits[0]
    before = service.get("/v1/models", limit=1000)["data"]
    for _ in range(2):
        job = dry_run(service, model["id"], others["id"], publish_as="dry", publish_when="always")
        assert (job["status"], job["error"], job["verdict"], job["serves"]) == ("succeeded", None, None, None)
        assert (job["calibrated_model_id"], job["report_url"]) == (None, None)
        plan = job["plan"]
        assert set(plan) >= FOUND, plan
        assert plan["features"] == model["features"]
        assert plan["splits"] == others["splits"]
        assert plan["estimate"]["minutes"] > 0
        assert plan["estimate"]["memory_bytes"] > 0
    report = service.client.get(f"/v1/jobs/{job['id']}/report")
    assert (report.status_code, report.json()["code"]) == (409, "no_report")
    assert "dry run" in report.json()["detail"]
    assert service.client.get("/v1/models/dry").status_code == 404
    assert service.get("/v1/models", limit=1000)["data"] == before
    real = service.calibrated(model, others, method="temperature")
    assert service.get(real["report_url"])["looks"]["before"] == 0
    assert (real["dry_run"], real["plan"]) == (False, None)


def test_in_one_call_while_inputs_are_inspected(service: Service, uploads: Uploads) -> None:
    """Files may come along, and the dry run waits for their inspection."""
    files = {"model": ("m", uploads["two_columns.onnx"]), "dataset": ("d", uploads["binary.npz"])}
    answer = service.client.post("/v1/jobs?dry_run=true", files=files)
    assert answer.status_code == 202, answer.text
    job = service.ended(answer.json()["id"])
    assert (job["status"], job["dry_run"]) == ("succeeded", True), (job, service.log)
    assert set(job["plan"]) >= FOUND


@pytest.mark.slow
def test_it_does_not_wait_for_a_training(service: Service, digits: tuple[Json, Json]) -> None:
    """While a job trains, and takes the only place there is for jobs, a dry run begins and ends."""
    model, dataset = digits
    long = service.order(model, dataset, hyperparameters={"epochs": 1000}, budget={"minutes": 5, "candidates": 2})
    until(lambda: service.job(long["id"])["stage"] == "training", seconds=150, what="the job trains")
    try:
        assert dry_run(service, model["id"], dataset["id"])["status"] == "succeeded"
        assert service.job(long["id"])["status"] == "running"
    finally:
        service.client.post(f"/v1/jobs/{long['id']}/cancel")
    assert service.ended(long["id"])["status"] == "cancelled"
