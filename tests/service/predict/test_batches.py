"""A batch answers what single requests answer, promises included, and refuses what cannot be promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.contract.options import AnswerOptions
from fedlas.contract.profiles import ModelProfile
from fedlas.data import Dataset, save_dataset
from fedlas.errors import Mismatch
from fedlas.export.graph import write_graph
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import load_onnx
from fedlas.importers.onnx.runtime import predict_file as run_file
from service.predict.formats.result_tables import read_page
from tests.helpers.documents import MODEL_PROFILE
from tests.helpers.networks import export, mlp, table
from tests.helpers.predictions import answer
from worker.documents import BatchOrder
from worker.inside.batch import predict

NAMES = ["a", "b", "c"]
Batch = tuple[ModelProfile, dict[str, Path], np.ndarray]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """The files that the worker's child is given, without options, and the rows."""
    folder = tmp_path_factory.mktemp("batch")
    torch.manual_seed(0)
    classifier = load_onnx(export(mlp().eval(), table(2), folder / "m.onnx"))
    (x,) = table(400)
    with torch.no_grad():
        logits, features = (part.numpy() for part in classifier(x))
    calibrator = TemperatureScaling(0.1)
    probs = softmax(calibrator(logits))
    targets = (probs.cumsum(1) > np.random.default_rng(0).random((400, 1))).argmax(1)
    guarantees = Guarantees.fit(probs, targets, class_names=NAMES)
    typicality = Typicality.fit(features, targets)
    write_graph(classifier, calibrator=calibrator, class_names=NAMES, typicality=typicality).save(folder / "out.onnx")
    name = classifier.input_names[0]
    splits = np.zeros(400, np.int8)
    rows = Dataset(inputs={name: x.numpy()}, targets=targets, splits=splits, class_names=NAMES, class_names_given=True)
    save_dataset(rows, folder / "rows.npz")
    profile = {
        **MODEL_PROFILE,
        "num_classes": len(NAMES),
        "inputs": [{"name": name, "dtype": "float32", "shape": ["N", 10]}],
        "class_names": NAMES,
        "guarantees": guarantees.as_dict(),
        "typicality": {"score": "mahalanobis"},
    }
    files = {"model": folder / "out.onnx", "dataset": folder / "rows.npz"}
    return ModelProfile.model_validate(profile), files, x.numpy()


def test_a_batch_answers_the_same(batch: Batch, tmp_path: Path) -> None:
    """Abstaining, sets, decisions and typicality of a batch are those of the same rows answered at once."""
    profile, files, rows = batch
    options = {"max_error": 0.12, "coverage": 0.8, "decision": {"costs": [[0, 1, 1], [5, 0, 1], [1, 1, 0]]}}
    order = BatchOrder(profile=profile, options=AnswerOptions.model_validate(options))
    assert predict(order, files, tmp_path, lambda event: None).num_rows == 400
    found, _ = read_page(tmp_path / "results.parquet", start=0, limit=400)
    expected = answer(run_file(files["model"], [rows]), profile.stored(), AnswerOptions(**options))
    assert {item["abstain"] for item in expected} == {True, False}
    for item, single in zip(found, expected, strict=True):
        for key in ("label", "abstain", "prediction_set", "decision"):
            assert item[key] == single[key]
        for key in ("confidence", "typicality"):
            assert item[key] == pytest.approx(single[key], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "code"),
    [({"max_error": 0.0001}, "max_error_unreachable"), ({"decision": {"threshold": 0.5}}, "invalid_request")],
)
def test_a_batch_refuses(batch: Batch, tmp_path: Path, options: dict[str, Any], code: str) -> None:
    """A promise that this model cannot make ends the batch before any row is run, with the code of a single request."""
    profile, files, _ = batch
    order = BatchOrder(profile=profile, options=AnswerOptions.model_validate(options))
    with pytest.raises(Mismatch) as caught:
        predict(order, files, tmp_path, lambda event: None)
    assert caught.value.code == code
    assert not (tmp_path / "results.parquet").exists()
