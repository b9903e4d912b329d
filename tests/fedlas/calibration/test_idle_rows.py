"""Train rows that nothing is trained on calibrate too, where the network has not seen them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlas.calibration import CalibrationOptions, calibrate
from fedlas.calibration.idle_rows import idle_rows
from fedlas.calibration.preparation import prepare
from fedlas.calibrators import MixtureScaling
from fedlas.data import SPLITS, Dataset
from fedlas.errors import BadDataset
from fedlas.importers import GraphClassifier, load_onnx
from tests.helpers.gaussian_classes import OVERCONFIDENT, network, world

ROWS = world()


def drawn(**changes: Any) -> Dataset:
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
    found = calibrate(classifier, drawn(), CalibrationOptions(method="temperature"))
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
    start = prepare(classifier, drawn(**changes), CalibrationOptions(method="post_hoc"))
    assert start.calibrated_on == {"train": 0, "calibration": 300}
    assert len(start.dataset.rows("train")) == 120


def test_rows_that_train_do_not_calibrate(classifier: GraphClassifier) -> None:
    """A job that trains needs its train rows itself."""
    start = prepare(classifier, drawn(), CalibrationOptions(method="auto"))
    assert start.trains
    assert start.calibrated_on == {"train": 0, "calibration": 300}


def test_idle_rows_count_by_their_weights(classifier: GraphClassifier) -> None:
    """A row that stands for two calibrates like two rows, whichever split it was drawn into."""
    weights = 1.0 + np.arange(len(ROWS["label"])) % 2
    start = prepare(classifier, drawn(weights=weights), CalibrationOptions(method="temperature"))
    assert start.calibrated_on == {"train": 120, "calibration": 300}
    chosen = np.isin(ROWS["split"], ["train", "calibration"])
    np.testing.assert_array_equal(start.dataset.weights_of("calibration"), weights[chosen])
    right = start.outputs.logits.argmax(axis=1) == ROWS["label"][chosen]
    assert start.accuracy.value == pytest.approx(np.repeat(right, weights[chosen].astype(int)).mean())


def test_idle_rows_leave_time_for_the_map_of_the_features(classifier: GraphClassifier) -> None:
    """Where all rows would take too long for a calibrator that reads features, as many join as it has time for."""
    each = 4 * (classifier.feature_dim + 40) * 3e-7
    options = CalibrationOptions(method="post_hoc", budget_seconds=60.0)
    many = np.arange(100_000) % len(ROWS["label"])
    splits = np.where(np.arange(100_000) < 20_000, SPLITS.index("calibration"), SPLITS.index("train")).astype(np.int8)
    splits[-20:] = SPLITS.index("test")
    dataset = drawn(inputs={"x": ROWS["x"][many]}, targets=ROWS["label"][many], splits=splits)
    start = prepare(classifier, dataset, options)
    assert sum(start.calibrated_on.values()) == pytest.approx((6.0 - 1.0) / each, abs=1)


def test_too_many_rows_are_drawn_in_whole_groups() -> None:
    """As many as fit under the limit beside the calibration rows, by a seed, and never a part of a group."""
    groups = np.arange(len(ROWS["label"])) // 8
    rows, others = (idle_rows(drawn(groups=groups), most_scores=4 * 350, seed=seed) for seed in (0, 1))
    assert 42 < len(rows) <= 50
    assert rows.tolist() != others.tolist()
    assert all(np.isin(np.flatnonzero(groups == group), rows).all() for group in np.unique(groups[rows]))
    assert len(idle_rows(drawn(), most_scores=4 * 200)) == 0


def test_a_broken_row_is_named_by_its_place_in_the_file(classifier: GraphClassifier) -> None:
    """Rows of two splits calibrate together, so an error counts in the owner's file."""
    broken = ROWS["x"].copy()
    broken[7] = 1e38
    places = np.arange(len(broken)) + 1000
    with pytest.raises(BadDataset, match=r"row 1007 \(in 'calibration'\)"):
        prepare(classifier, drawn(inputs={"x": broken}, file_rows=places), CalibrationOptions(method="post_hoc"))
