"""A fine-tuned model meets its own training rows again, as its owner may well send them, over HTTP."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

from tests.helpers import uploads as made
from tests.helpers.service import Service
from tests.helpers.uploads import Uploads

Json = dict[str, Any]

COUNTS = {"train": 650, "calibration": 200, "test": 250}
SEEN = COUNTS["train"] + COUNTS["calibration"]
#: So many of them are not sent again.
ONLY_SOME = 700


def fresh() -> tuple[made.Array, made.Array]:
    """The 1,397 digits that the uploaded model was not trained on."""
    rows, targets, splits = made.digits()
    return rows[splits != "train"], targets[splits != "train"]


@pytest.fixture(scope="module")
def refit(service: Service, uploads: Uploads) -> tuple[Json, Json]:
    """A model that was trained on fresh rows, and the dataset that it was trained on."""
    rows, targets = fresh()
    number, words = sum(COUNTS.values()), np.repeat(list(COUNTS), list(COUNTS.values()))
    model = service.inspected("models", uploads["digits.onnx"])
    content = made.npz(x=rows[:number], label=targets[:number], split=words)
    dataset = service.inspected("datasets", content, seen_by_model="no")
    settings = {"batch_size": 16, "learning_rate": 0.1, "epochs": 4}
    job = service.calibrated(model, dataset, budget={"minutes": 1, "candidates": 2}, hyperparameters=settings)
    assert job["verdict"] == "trained"
    return service.get(f"/v1/models/{job['calibrated_model_id']}"), dataset


def test_its_own_dataset_calibrates_it_no_more(service: Service, refit: tuple[Json, Json]) -> None:
    """`rows_seen`, also in a dry run on the downloaded file, saved anew and uploaded as another model."""
    model, dataset = refit
    saved = onnx.load_from_string(service.client.get(f"/v1/models/{model['id']}/onnx").content)
    saved.graph.name = saved.doc_string = "mine"
    again = service.inspected("models", saved.SerializeToString(), name="another", output="probabilities")
    assert model["trained_on"][-1]["network"] == ["train", "calibration"]
    order = {"model_id": again["id"], "dataset_id": dataset["id"]}
    planned = service.client.post("/v1/jobs", params={"dry_run": "true"}, json=order).json()
    for job in (planned, service.order(model, dataset, method="temperature")):
        end = service.ended(job["id"])
        assert (end["status"], end["error"]["code"], end["error"]["user_error"]) == ("failed", "rows_seen", True)
        assert "trained on 200 of 200 calibration rows" in end["error"]["message"]


def test_its_rows_are_found_in_another_file(service: Service, refit: tuple[Json, Json]) -> None:
    """As wide numbers in a table, in another order and split otherwise, they are counted and take no part."""
    rows, targets = fresh()
    order = ONLY_SOME + np.random.default_rng(0).permutation(len(rows) - ONLY_SOME)
    columns = {f"p{i}": rows[order, i].astype(np.float64) for i in range(64)}
    shares = '{"calibration": 0.45, "guarantee": 0.1, "test": 0.45}'
    content = made.csv({**columns, "label": targets[order]})
    table = service.inspected("datasets", content, seen_by_model="no", split_shares=shares)
    report = service.get(service.calibrated(refit[0], table, method="temperature")["report_url"])
    said = [sentence for sentence in report["summary"] if "are left out" in sentence]
    found = re.findall(r"(\d+) of (\d+) (\w+) rows", " ".join(said))
    left_out = {split: int(gone) for gone, _, split in found}
    assert {split: int(whole) for _, whole, split in found} | {"train": 0} == table["splits"]
    assert sum(left_out.values()) == SEEN - ONLY_SOME
    expected = {split: count - left_out.get(split, 0) for split, count in table["splits"].items()}
    assert report["recipe"]["splits"] == expected
