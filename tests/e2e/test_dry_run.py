"""A dry run tells everything that a job would find out before it trains, and leaves no trace but its record."""

from __future__ import annotations

import pytest

from tests.helpers.service import Json, Service, until
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow


def test_in_one_call_while_inputs_are_inspected(service: Service, uploads: Uploads) -> None:
    """Files may come along, and the dry run waits for their inspection."""
    files = {"model": ("m", uploads["two_columns.onnx"]), "dataset": ("d", uploads["binary.npz"])}
    answer = service.client.post("/v1/jobs?dry_run=true", files=files)
    assert answer.status_code == 202, answer.text
    job = service.ended(answer.json()["id"])
    assert (job["status"], job["dry_run"]) == ("succeeded", True), (job, service.log)
    assert set(job["plan"]) >= {"features", "labels", "leakage", "splits", "estimate", "detectable_effect"}


def test_it_does_not_wait_for_a_training(service: Service, digits: tuple[Json, Json]) -> None:
    """While a job trains, and takes the only place there is for jobs, a dry run begins and ends."""
    model, dataset = digits
    long = service.order(model, dataset, hyperparameters={"epochs": 1000}, budget={"minutes": 30, "candidates": 16})
    until(lambda: service.job(long["id"])["stage"] == "training", seconds=150, what="the job trains")
    try:
        body = {"model_id": model["id"], "dataset_id": dataset["id"]}
        dry = service.client.post("/v1/jobs", params={"dry_run": "true"}, json=body).json()
        assert service.ended(dry["id"])["status"] == "succeeded"
        assert service.job(long["id"])["status"] == "running"
    finally:
        service.client.post(f"/v1/jobs/{long['id']}/cancel")
    assert service.ended(long["id"])["status"] == "cancelled"
