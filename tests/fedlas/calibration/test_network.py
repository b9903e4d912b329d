"""A calibration from arrays, as a notebook does it: what a job does, without a service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from fedlas.calibration import CalibrationOptions, calibrate
from fedlas.data import SPLITS, Dataset, align
from fedlas.errors import BaselineMismatch
from fedlas.importers import GraphClassifier, load_onnx
from tests.helpers.gaussian_classes import OVERCONFIDENT, network, world


def given(folder: Path) -> tuple[GraphClassifier, Dataset]:
    """An overconfident network, and rows that it has not seen."""
    (folder / "model.onnx").write_bytes(network(OVERCONFIDENT))
    classifier = load_onnx(folder / "model.onnx")
    rows = world()
    splits = np.array([SPLITS.index(name) for name in rows["split"]], np.int8)
    dataset = Dataset({"x": rows["x"]}, rows["label"], list("abcd"), True, splits, seen_by_model="no")
    specs = [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in classifier.inputs]
    return classifier, align(
        dataset, model_inputs=specs, num_classes=4, class_names=list("abcd"), class_names_given=True
    )


def test_a_notebook_calibrates_judges_and_exports(tmp_path: Path) -> None:
    """The verdict, its report and the file belong together, and stages and request are told as they were."""
    classifier, dataset = given(tmp_path)
    stages: list[tuple[str, float]] = []
    found = calibrate(
        classifier,
        dataset,
        CalibrationOptions(method="post_hoc", evaluations_before=2),
        request={"asked": "for little"},
        on_stage=lambda stage, fraction: stages.append((stage, fraction)),
    )
    report = found.report.as_dict()
    assert found.verdict.verdict == report["verdict"] == "post_hoc"
    assert (report["looks"]["before"], report["recipe"]["request"]) == (2, {"asked": "for little"})
    assert [stage for stage, _ in stages] == ["evaluating", "training", "calibrating"]
    found.export(tmp_path / "calibrated.onnx", metadata={"made": "here"})
    session = ort.InferenceSession(tmp_path / "calibrated.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["made"] == "here"
    test, targets = dataset.select("test")
    (probs,) = session.run(["probabilities"], {classifier.inputs[0].name: next(iter(test.values()))})
    nll = -np.log(probs[np.arange(len(targets)), targets]).mean()
    assert nll == pytest.approx(report["metrics"]["calibrated"]["nll"]["value"], rel=1e-4)
    assert found.guarantees is not None


def test_a_network_that_is_not_what_its_owner_expects_is_refused(tmp_path: Path) -> None:
    """Before anything is trained, an accuracy far below the expected one ends the calibration."""
    classifier, dataset = given(tmp_path)
    with pytest.raises(BaselineMismatch, match=r"99\.0 % was expected"):
        calibrate(classifier, dataset, CalibrationOptions(method="post_hoc", expected_accuracy=0.99))
