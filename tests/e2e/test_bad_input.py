"""Bad jobs over HTTP: each is answered with its code and a sentence on what was found; nothing is 'repaired'."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import uploads as made
from tests.helpers.service import Json, Service
from tests.helpers.uploads import Uploads, digits_npz
from tests.helpers.uploads import digits as all_digits


def test_jobs_whose_model_and_dataset_do_not_fit(service: Service, digits: tuple[Json, Json]) -> None:
    """The job fails as its sender's error, and both sides are shown."""
    rows, _, _ = made.digits()
    cases = {
        "shape": (made.digits_npz(x=rows[:, :32]), "inputs_mismatch", ("64", "32")),
        "rejected": (b"hello", "dataset_rejected", ()),
    }
    orders = {
        name: service.order(digits[0], service.upload("datasets", content)) for name, (content, *_) in cases.items()
    }
    for name, (_, code, words) in cases.items():
        job = service.ended(orders[name]["id"])
        assert job["status"] == "failed", (name, job)
        assert (job["error"]["code"], job["error"]["user_error"]) == (code, True), (name, job["error"])
        assert all(word in job["error"]["message"] for word in words), (name, job["error"])
        assert (job["verdict"], job["calibrated_model_id"], job["report_url"]) == (None, None, None)


def test_rows_outside_a_vocabulary_are_the_senders_error(service: Service, uploads: Uploads) -> None:
    """Token ids that the model does not know fail job and batch with `user_error`, not as a defect of ours."""
    ids, mask, targets = made.sentences()
    ids[7, 0] = 10_000
    model = service.upload("models", uploads["text.onnx"])
    content = made.npz(input_ids=ids, attention_mask=mask, label=targets)
    dataset = service.inspected("datasets", content, seen_by_model="no")
    assert service.final(f"/v1/models/{model['id']}")["status"] == "ready"
    batch = service.client.post("/v1/batches", json={"model": model["id"], "dataset_id": dataset["id"]}).json()
    ended = service.final(f"/v1/batches/{batch['id']}")
    assert (ended["status"], ended["error"]["user_error"]) == ("failed", True), ended
    job = service.ended(service.order(model, dataset)["id"])
    assert (job["status"], job["error"]["user_error"]) == ("failed", True), job


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def named(service: Service) -> Json:
    """The digits with names as labels, which are taken in sorted order where the model has none."""
    return service.inspected("datasets", digits_npz(label=np.array(NAMES)[all_digits()[1]]))


def test_sorted_names_are_not_the_models_order(service: Service, uploads: Uploads, named: Json) -> None:
    """A model without names and a dataset with: the dry run says with what the job will fail, and the job does."""
    model = service.inspected("models", uploads["digits.onnx"])
    body = {"model_id": model["id"], "dataset_id": named["id"]}
    dry = service.ended(service.client.post("/v1/jobs?dry_run=true", json=body).json()["id"])
    (warning,) = dry["plan"]["warnings"]
    assert (dry["status"], dry["plan"]["fails_with"], warning["severity"]) == ("succeeded", "label_order", "error")
    assert warning["evidence"]["likely_order"] == NAMES
    assert warning["evidence"]["mapping"]["eight"] == sorted(NAMES)[8]
    assert dry["plan"]["labels"]["matched_by"] == "index"

    job = service.ended(service.order(model, named)["id"])
    assert (job["status"], job["error"]["code"], job["error"]["user_error"]) == ("failed", "label_order", True)
    assert "zero,one,two,three" in job["error"]["message"]
    assert [(one["code"], one["severity"]) for one in job["warnings"]] == [("label_order", "error")]
    events = service.get(f"/v1/jobs/{job['id']}/events", limit=100)["data"]
    (told,) = [event["data"] for event in events if event["type"] == "warning"]
    assert told == job["warnings"][0]
