"""Classical models through the whole service: what cannot be trained is calibrated, and what is linear is trained."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.helpers.service import Json, Service
from tests.helpers.uploads import Array

pytestmark = pytest.mark.slow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from skl2onnx import to_onnx


COUNTS = {"train": 500, "calibration": 400, "guarantee": 300, "test": 597}


def digits() -> tuple[Array, Array, Array]:
    """scikit-learn's digits as float32 rows, labels, and the split of every row; shuffled once."""
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return rows[order].astype(np.float32), labels[order], np.repeat(list(COUNTS), list(COUNTS.values()))


def onnx_of(model: Any) -> bytes:
    """Fitted on the train rows and converted as skl2onnx does where nothing is asked for: with a map of scores."""
    rows, labels, splits = digits()
    model.fit(rows[splits == "train"], labels[splits == "train"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(to_onnx(model, rows[:1]).SerializeToString())


@pytest.fixture(scope="module")
def dataset(service: Service) -> Json:
    rows, labels, splits = digits()
    buffer = io.BytesIO()
    np.savez(buffer, x=rows, y=labels, split=splits)
    record = service.inspected("datasets", buffer.getvalue())
    assert record["status"] == "ready", record
    return record


def test_forests_get_honest_confidences(service: Service, dataset: Json) -> None:
    """A random forest's record says that it cannot be trained; its job ends post hoc, and its confidences come true."""
    forest = RandomForestClassifier(20, random_state=0)
    model = service.inspected("models", onnx_of(forest))
    assert model["status"] == "ready", model
    assert (model["trainable"], model["num_classes"], model["output"]["kind"]) == (False, 10, "probabilities")
    job = service.calibrated(model, dataset, method="auto")
    assert (job["verdict"], job["serves"]) == ("post_hoc", "calibrated")
    report = service.get(job["report_url"])
    assert any("no weights that can be trained" in sentence for sentence in report["summary"])
    assert {entry["scope"] for entry in report["candidates"]} == {"none"}

    rows, labels, splits = digits()
    test = splits == "test"
    found = service.predict(job["calibrated_model_id"], rows[test].tolist(), coverage=0.9)
    right = np.array([entry["index"] for entry in found]) == labels[test]
    confident = np.mean([entry["confidence"] for entry in found])
    before = np.mean([entry["uncalibrated_confidence"] for entry in found])
    np.testing.assert_allclose(before, forest.predict_proba(rows[test]).max(1).mean(), atol=1e-4)
    assert abs(confident - right.mean()) < 0.03 < abs(before - right.mean())
    covered = [str(label) in entry["prediction_set"] for label, entry in zip(labels[test], found, strict=True)]
    assert np.mean(covered) > 0.84  # 0.9, less three standard errors of 300 and 597 rows

    again = service.inspected("models", service.client.get(f"/v1/models/{job['calibrated_model_id']}/onnx").content)
    assert (again["status"], again["trainable"]) == ("ready", False), again


def test_linear_pipelines_are_trained(service: Service, dataset: Json) -> None:
    """A scaler with a logistic regression is a network whose features are the scaled numbers; a job trains it."""
    model = service.inspected("models", onnx_of(make_pipeline(StandardScaler(), LogisticRegression(C=100))))
    assert (model["status"], model["trainable"]) == ("ready", True), model
    assert model["features"]["dim"] == 64
    job = service.calibrated(model, dataset, method="fedlas")
    report = service.get(job["report_url"])
    assert any(entry["method"] == "fedlas" and entry["status"] == "finished" for entry in report["candidates"])
    rows, _, splits = digits()
    assert len(service.predict(job["calibrated_model_id"], rows[splits == "test"][:5].tolist())) == 5
