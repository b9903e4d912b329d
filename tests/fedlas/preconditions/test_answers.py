"""Answers and labels alone: rows that trained, labels in place of answers, scores whose labels stand elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

from fedlas.calibration import CalibrationOptions, ScoredRows, calibrate_scores
from fedlas.data import Dataset
from fedlas.data.dataset import Array
from fedlas.errors import PreconditionFailed
from fedlas.preconditions.answers import learnt_by_heart
from fedlas.preconditions.examination import Answers, examine
from tests.helpers.drawn_rows import drawn_scores
from tests.helpers.matches import gaussian_answers


def scores(logits: Array, targets: Array, *, kind: str = "logits", **columns: Any) -> Dataset:
    """Half of the rows fit, a quarter each judge and promise."""
    splits = np.resize([1, 3, 1, 2], len(targets))
    names, rows = [f"c{i}" for i in range(logits.shape[1])], {kind: logits.astype(np.float32)}
    options: dict[str, Any] = {"seen_by_model": "no", "drawn": True} | columns
    return Dataset(rows, targets, names, True, splits.astype(np.int8), **options)


def codes(dataset: Dataset, logits: Array) -> list[tuple[str, str]]:
    found = examine(Answers(dataset=dataset, logits=logits, targets=dataset.targets))
    return [(notice.code, notice.severity) for notice in found]


@pytest.fixture(scope="module")
def overfitted() -> tuple[Array, Array]:
    """Logits and labels of 800 rows that a forest was grown on, a tenth of them wrong labels."""
    x, y = make_classification(800, 20, n_informative=8, n_classes=3, flip_y=0.1, random_state=1)
    forest = RandomForestClassifier(100, random_state=0).fit(x, y)
    assert forest.score(x, y) == 1
    return np.log(forest.predict_proba(x) + 1e-6), y


def test_rows_that_trained_end_a_fit_and_promise_nothing(overfitted: tuple[Array, Array]) -> None:
    """Accepted, they are calibrated, with a warning and without a promise."""
    rows = ScoredRows.of(scores(*overfitted))
    with pytest.raises(PreconditionFailed, match="probably trained on these rows") as ended:
        calibrate_scores(rows)
    assert ended.value.code == "training_rows"
    accepted = calibrate_scores(rows, CalibrationOptions(accept_warnings=["training_rows"]))
    assert (accepted.guarantees, [notice.code for notice in accepted.warnings]) == (None, ["training_rows"])


def test_an_easy_task_is_not_accused() -> None:
    """True posteriors that are right on nearly all rows, too sure, right or too cautious: none of 450 draws."""
    accused = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        for apart in (2.0, 3.0, 5.0):
            logits, targets, _ = gaussian_answers(rng, 3, 400, apart=apart)
            for scale in (0.5, 1, 2):
                dataset = scores(logits, targets)
                accused += bool(learnt_by_heart(Answers(dataset=dataset, logits=scale * logits, targets=targets)))
    assert accused == 0


def test_scores_whose_labels_stand_elsewhere_end_a_fit() -> None:
    """Classes swapped, rows shuffled, probabilities called logits; labels in place of answers are a warning."""
    logits, targets = drawn_scores(900, 3)
    probs = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    one_hot = np.log(np.eye(3)[logits.argmax(axis=1)] + 1e-7)
    shuffled = np.random.default_rng(1).permutation(targets)
    assert codes(scores(logits, targets), logits) == []
    assert codes(scores(logits, targets), logits[:, [1, 0, 2]])[0][0] == "label_order"
    assert codes(scores(logits, shuffled), 3 * logits) == [("worse_than_frequencies", "error")]
    assert ("softmax_twice", "error") in codes(scores(logits, targets), probs)
    assert codes(scores(one_hot, targets), one_hot) == [("one_hot_answers", "warning")]


def test_copies_across_given_splits_are_said() -> None:
    """The splits stay as they were sent."""
    logits, targets = drawn_scores(400, 3)
    twice = np.repeat(np.arange(400), 2)
    dataset = scores(logits[twice], targets[twice], drawn=False)
    (notice,) = examine(Answers(dataset=dataset, logits=logits[twice], targets=targets[twice]))
    assert (notice.code, notice.evidence["copies"]) == ("copied_rows", {"guarantee": 200, "test": 200})
