"""Rows that tempt a calibration into a false report: each gets a true one, or an error that says why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from fedlas.calibration.preparation import Start, idle_rows, prepare, seconds_after_race
from fedlas.calibrators import MixtureScaling, softmax
from fedlas.data import SPLITS, Dataset
from fedlas.errors import BadDataset
from fedlas.importers import GraphClassifier, load_onnx
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.gaussian_classes import COUNT, OVERCONFIDENT, TRUTH, network, world

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
    for name, value in (("_RESAMPLES", 20), ("_MIN_RESAMPLES", 20), ("_NOISE_DRAWS", 1)):
        monkeypatch.setattr(scores, name, value)
    monkeypatch.setattr(evaluation, "_MIN_DRAWS", 1)


@pytest.mark.parametrize("make", BAD)
def test_bad_rows_worsen_nothing_silently(make: Callable[[], Dataset]) -> None:
    """A calibrated model is no worse on test rows with right labels than what was sent, in NLL and in Brier score."""
    found = checked(make())
    metrics = found.report.as_dict()["metrics"]
    assert all(math.isfinite(metrics["calibrated"][name]["value"]) for name in ("nll", "brier", "accuracy", "ece"))
    if found.verdict.serves == "calibrated":
        for name in ("nll", "brier"):
            assert metrics["calibrated"][name]["value"] <= 1.01 * metrics["uploaded"][name]["value"]


@pytest.mark.parametrize("make", [one_group, twenty_rows])
def test_bad_rows_of_a_network(make: Callable[[], Dataset], tmp_path: Path) -> None:
    """Bad rows calibrate with a network at hand, too: no score gets worse, and the file can be written."""
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
    expected = checked(only(dataset, rows), method="temperature").calibrator.parameters()["temperature"]
    assert found.calibrator.parameters()["temperature"] == pytest.approx(expected, rel=1e-6)


ROWS = world()


def drawn_idle_rows(**changes: Any) -> Dataset:
    """Rows of which the network has seen none, as if their splits were drawn: 120 train, 300 calibration rows."""
    splits = np.array([SPLITS.index(name) for name in ROWS["split"]], np.int8)
    dataset = Dataset({"x": ROWS["x"]}, ROWS["label"], list("abcd"), True, splits, seen_by_model="no", drawn=True)
    return replace(dataset, **changes)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> GraphClassifier:
    file = tmp_path_factory.mktemp("idle") / "model.onnx"
    file.write_bytes(network(OVERCONFIDENT))
    return load_onnx(file)


def test_idle_rows_calibrate_and_are_recorded(classifier: GraphClassifier) -> None:
    """The temperature is that of both splits together; what judges stays, and report and summary tell who did what."""
    found = calibrate(classifier, drawn_idle_rows(), CalibrationOptions(method="temperature"))
    report = found.report.as_dict()
    both = np.isin(ROWS["split"], ["train", "calibration"])
    logits = ROWS["x"].astype(np.float64) @ OVERCONFIDENT[0] + OVERCONFIDENT[1]
    expected = MixtureScaling().fit(logits[both], ROWS["label"][both]).parameters()
    assert found.finalist is not None
    assert found.finalist.calibrator.parameters() == pytest.approx(expected, rel=1e-4)
    assert report["recipe"]["calibrated_on"] == {"train": 120, "calibration": 300}
    assert report["recipe"]["splits"] == {"train": 120, "calibration": 300, "guarantee": 80, "test": 400}
    assert report["num_test_rows"] == 400
    assert any("120 rows that were drawn to train calibrate" in sentence for sentence in report["summary"])


@pytest.mark.parametrize(
    "changes",
    [
        {"drawn": False},
        {"seen_by_model": "train_split"},
        {"seen_by_model": "unknown"},
        {"roles": {"label": "label", "time": "when"}},
    ],
)
def test_rows_that_may_have_been_seen_stay_idle(classifier: GraphClassifier, changes: dict[str, Any]) -> None:
    """Given splits, rows that the network was or may have been trained on, and the oldest rows do not calibrate."""
    start = prepare(classifier, drawn_idle_rows(**changes), CalibrationOptions(method="post_hoc"))
    assert start.calibrated_on == {"train": 0, "calibration": 300}
    assert len(start.dataset.rows("train")) == 120


def test_rows_that_train_do_not_calibrate(classifier: GraphClassifier) -> None:
    """A job that trains needs its train rows itself."""
    start = prepare(classifier, drawn_idle_rows(), CalibrationOptions(method="auto"))
    assert start.trains
    assert start.calibrated_on == {"train": 0, "calibration": 300}


def test_idle_rows_count_by_their_weights(classifier: GraphClassifier) -> None:
    """A row that stands for two calibrates like two rows, whichever split it was drawn into."""
    weights = 1.0 + np.arange(len(ROWS["label"])) % 2
    start = prepare(classifier, drawn_idle_rows(weights=weights), CalibrationOptions(method="temperature"))
    assert start.calibrated_on == {"train": 120, "calibration": 300}
    chosen = np.isin(ROWS["split"], ["train", "calibration"])
    np.testing.assert_array_equal(start.dataset.weights_of("calibration"), weights[chosen])
    right = start.outputs.logits.argmax(axis=1) == ROWS["label"][chosen]
    assert start.accuracy.value == pytest.approx(np.repeat(right, weights[chosen].astype(int)).mean())


def test_idle_rows_leave_time_for_the_map_of_the_features(classifier: GraphClassifier) -> None:
    """Where all rows would take too long for a calibrator that reads features, as many join as it has time for."""
    each = 4 * (classifier.feature_dim + 40) * 3e-7
    options = CalibrationOptions(method="post_hoc", budget=1)
    many = np.arange(100_000) % len(ROWS["label"])
    splits = np.where(np.arange(100_000) < 20_000, SPLITS.index("calibration"), SPLITS.index("train")).astype(np.int8)
    splits[-20:] = SPLITS.index("test")
    dataset = drawn_idle_rows(inputs={"x": ROWS["x"][many]}, targets=ROWS["label"][many], splits=splits)
    start = prepare(classifier, dataset, options)
    assert sum(start.calibrated_on.values()) == pytest.approx((6.0 - 1.0) / each, abs=1)


def test_too_many_rows_are_drawn_in_whole_groups() -> None:
    """The largest number of whole groups that fits under the limit beside the calibration rows is drawn, by a seed."""
    groups = np.arange(len(ROWS["label"])) // 8
    rows, others = (idle_rows(drawn_idle_rows(groups=groups), most_scores=4 * 350, seed=seed) for seed in (0, 1))
    assert 42 < len(rows) <= 50
    assert rows.tolist() != others.tolist()
    assert all(np.isin(np.flatnonzero(groups == group), rows).all() for group in np.unique(groups[rows]))
    assert len(idle_rows(drawn_idle_rows(), most_scores=4 * 200)) == 0


def test_a_broken_row_is_named_by_its_place_in_the_file(classifier: GraphClassifier) -> None:
    """Rows of two splits calibrate together, so an error counts in the owner's file."""
    broken = ROWS["x"].copy()
    broken[7] = 1e38
    dataset = drawn_idle_rows(inputs={"x": broken}, file_rows=np.arange(len(broken)) + 1000)
    with pytest.raises(BadDataset, match=r"row 1007 \(in 'calibration'\)"):
        prepare(classifier, dataset, CalibrationOptions(method="post_hoc"))


@pytest.mark.parametrize(
    ("test_rows", "num_classes", "measured_s"),
    [
        (2_000, 10, 2.8),
        (2_000, 100, 5.1),
        (2_000, 1_000, 13.9),
        (20_000, 10, 17.2),
        (20_000, 100, 38.9),
        (500, 1_000, 6.4),
    ],
)
def test_time_is_kept_for_what_follows_the_race(test_rows: int, num_classes: int, measured_s: float) -> None:
    """The measured time of judging, label noise and report of six finalists is kept back, and at most twice as much."""
    rows = {"test": test_rows, "guarantee": 0}
    dataset: Any = SimpleNamespace(rows=lambda split: range(rows[split]), class_names=["c"] * num_classes)
    outputs: Any = SimpleNamespace(seconds_per_row=0.0)
    nothing: Any = None
    start = Start(nothing, dataset, CalibrationOptions(), outputs, nothing, judged=True, trains=True)
    assert measured_s < seconds_after_race(start) < 2 * measured_s
