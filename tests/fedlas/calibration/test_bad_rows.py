"""Rows that tempt a calibration into a false report: each gets a true one, or an error that says why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.calibration import (
    CalibrationOptions,
    ScoredRows,
    ScoresCalibration,
    calibrate,
    calibrate_scores,
    evaluation,
    scores,
)
from fedlas.calibrators import softmax
from fedlas.data import SPLITS, Dataset
from fedlas.importers import load_onnx
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.gaussian_classes import COUNT, TRUTH, network, world

Array = NDArray[Any]
CALIBRATION, TEST = SPLITS.index("calibration"), SPLITS.index("test")


def drawn(calibration: int = 250, test: int = 300, classes: int = 4, *, sharpened: float = 3.0) -> Dataset:
    """Scores `sharpened` times too large for the labels that were drawn from them."""
    logits, targets = drawn_logits(calibration + test, classes)
    splits = np.repeat([CALIBRATION, TEST], [calibration, test]).astype(np.int8)
    names = [f"class {k}" for k in range(classes)]
    sent = {"logits": (sharpened * logits).astype(np.float32)}
    return Dataset(sent, targets, names, True, splits, seen_by_model="no")


def only(dataset: Dataset, kept: Array) -> Dataset:
    """The rows (N,) that are kept."""
    sent = {"logits": dataset.inputs["logits"][kept]}
    return replace(dataset, inputs=sent, targets=dataset.targets[kept], splits=dataset.splits[kept])


def one_group() -> Dataset:
    dataset = drawn()
    return replace(dataset, groups=np.where(dataset.splits == CALIBRATION, 10_000, np.arange(len(dataset))))


def groups_of_several_classes() -> Dataset:
    return replace(drawn(), groups=np.arange(550) // 5)


def three_rows_of_a_class() -> Dataset:
    dataset = drawn()
    rare = np.flatnonzero(dataset.targets == 3)
    few = [*rare[dataset.splits[rare] == CALIBRATION][:2], *rare[dataset.splits[rare] == TEST][:1]]
    return only(dataset, (dataset.targets != 3) | np.isin(np.arange(len(dataset)), few))


def a_class_that_calibration_never_met() -> Dataset:
    dataset = drawn()
    return only(dataset, (dataset.targets != 3) | (dataset.splits == TEST))


def twenty_rows() -> Dataset:
    return drawn(20)


def a_thousand_classes() -> Dataset:
    return drawn(500, 500, 1000)


def wrong_labels() -> Dataset:
    dataset = drawn(sharpened=1.0)
    wrong = (np.random.default_rng(1).random(len(dataset)) < 0.3) & (dataset.splits == CALIBRATION)
    return replace(dataset, targets=np.where(wrong, (dataset.targets + 1) % 4, dataset.targets))


def huge_logits() -> Dataset:
    return drawn(sharpened=2000.0)


BAD = [
    one_group,
    groups_of_several_classes,
    three_rows_of_a_class,
    a_class_that_calibration_never_met,
    twenty_rows,
    pytest.param(a_thousand_classes, marks=pytest.mark.slow),
    wrong_labels,
    huge_logits,
]


def checked(dataset: Dataset, **options: Any) -> ScoresCalibration:
    """A calibration whose report has no NaN and whose calibrator makes distributions of all rows."""
    found = calibrate_scores(ScoredRows.of(dataset), CalibrationOptions(**options))
    json.dumps(found.report.as_dict(), allow_nan=False)
    probs = softmax(found.calibrator(dataset.inputs["logits"]))
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples and one draw of wrong labels: these tests read no interval."""
    for module, name, value in (
        (scores, "_RESAMPLES", 20),
        (scores, "_FEWEST_RESAMPLES", 20),
        (scores, "_NOISE_DRAWS", 1),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(evaluation, "_FEWEST_DRAWS", 1)


@pytest.mark.parametrize("make", BAD)
def test_bad_rows_worsen_nothing_silently(make: Callable[[], Dataset]) -> None:
    """What is promoted is no worse on test rows with right labels than what was sent, in NLL and in Brier score."""
    dataset = make()
    found = checked(dataset)
    metrics = found.report.as_dict()["metrics"]
    assert all(math.isfinite(metrics["calibrated"][name]["value"]) for name in ("nll", "brier", "accuracy", "ece"))
    if found.verdict.promoted:
        for name in ("nll", "brier"):
            assert metrics["calibrated"][name]["value"] <= 1.01 * metrics["uploaded"][name]["value"]


@pytest.mark.parametrize("make", [one_group, twenty_rows])
def test_bad_rows_of_a_network(make: Callable[[], Dataset], tmp_path: Path) -> None:
    """The same holds where the network is at hand and its features calibrate too, and the file can be written."""
    (tmp_path / "model.onnx").write_bytes(network((np.eye(4), np.zeros(4))))
    dataset, classifier = make(), load_onnx(tmp_path / "model.onnx")
    dataset = replace(dataset, inputs={"x": dataset.inputs["logits"]})
    accepted = ["few_rows"] if make is twenty_rows else []
    options = CalibrationOptions(method="post_hoc", noise_draws=1, num_resamples=20, accept_warnings=accepted)
    found = calibrate(classifier, dataset, options)
    report = found.report.as_dict()
    json.dumps(report, allow_nan=False)
    for name in ("nll", "brier"):
        before, after = (report["metrics"][model][name]["value"] for model in ("uploaded", "calibrated"))
        assert after <= 1.01 * before
    if found.finalist is not None:
        found.export(tmp_path / "calibrated.onnx")


def test_sure_errors_do_not_rule_a_temperature(tmp_path: Path) -> None:
    """Where 6 % of the labels are wrong a plain temperature spoils a Brier score that the served one keeps."""
    rows, rng = world(1), np.random.default_rng(1)
    targets = np.where(rng.random(COUNT) < 0.06, (rows["label"] + 1) % 4, rows["label"])
    (tmp_path / "model.onnx").write_bytes(network(TRUTH))
    splits = np.array([SPLITS.index(name) for name in rows["split"]], np.int8)
    dataset = Dataset({"x": rows["x"]}, targets, list("abcd"), True, splits, seen_by_model="no")
    found = calibrate(load_onnx(tmp_path / "model.onnx"), dataset, CalibrationOptions(method="temperature"))
    metrics = found.report.as_dict()["metrics"]
    uploaded, plain, served = (metrics[name]["brier"]["value"] for name in ("uploaded", "temperature", "calibrated"))
    assert found.verdict.finalist == "post_hoc"
    assert plain > uploaded + 0.01
    assert served < uploaded + 0.001


def test_a_row_that_stands_for_two_calibrates_like_two() -> None:
    """The temperature is that of the calibration rows written out as often as they weigh."""
    dataset = drawn()
    weights = np.where(dataset.splits == CALIBRATION, 1.0 + np.arange(len(dataset)) % 3, 1.0)
    found = checked(replace(dataset, weights=weights), method="temperature")
    rows = np.repeat(np.arange(len(dataset)), weights.astype(int))
    repeated = checked(only(dataset, rows), method="temperature")
    expected = repeated.calibrator.parameters()["temperature"]
    assert found.calibrator.parameters()["temperature"] == pytest.approx(expected, rel=1e-6)
