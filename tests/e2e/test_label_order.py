"""Labels in another order than the model's: told in the plan, the events and the record, and never 'repaired'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.service import Service
from tests.helpers.uploads import Uploads, digits_npz
from tests.helpers.uploads import digits as all_digits

Json = dict[str, Any]

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


def test_the_likely_order_is_the_remedy(service: Service, uploads: Uploads, named: Json) -> None:
    """With the names in the order that was said, the job has no warning, and none can be accepted."""
    model = service.inspected("models", uploads["digits.onnx"], class_names=",".join(NAMES))
    job = service.calibrated(model, named, method="temperature")
    assert job["warnings"] == []
    refused = service.ended(service.order(model, named, method="temperature", accept_warnings=["label_order"])["id"])
    assert (refused["status"], refused["error"]["code"]) == ("failed", "warning_not_given")
    unknown = service.client.post(
        "/v1/jobs", json={"model_id": model["id"], "dataset_id": named["id"], "accept_warnings": ["none"]}
    )
    assert unknown.status_code == 422


def test_what_is_accepted_goes_on(service: Service, uploads: Uploads, named: Json) -> None:
    """The owner may insist; the record and the report keep the warning."""
    model = service.inspected("models", uploads["digits.onnx"])
    job = service.calibrated(model, named, method="temperature", accept_warnings=["label_order"])
    assert [one["code"] for one in job["warnings"]] == ["label_order"]
    assert job["accept_warnings"] == ["label_order"]


def test_labels_from_one_are_told(service: Service, uploads: Uploads) -> None:
    """All ten labels one too large are no class of the model; nine of them are, and shift all the others."""
    rows, targets, splits = all_digits()
    model = service.inspected("models", uploads["digits.onnx"])
    all_ten = service.inspected("datasets", digits_npz(label=targets + 1))
    job = service.ended(service.order(model, all_ten)["id"])
    assert (job["error"]["code"], "subtract 1" in job["error"]["message"]) == ("class_mismatch", True)
    kept = targets < 9
    nine = service.inspected("datasets", digits_npz(x=rows[kept], label=targets[kept] + 1, split=splits[kept]))
    job = service.ended(service.order(model, nine)["id"])
    assert (job["error"]["code"], "Subtract 1" in job["error"]["message"]) == ("labels_from_one", True)
