"""Confident answers: how untrue they are, against what they were, and when that stops a finalist."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t
from sklearn.ensemble import RandomForestClassifier

from fedlas.calibrators import AffineScaling, softmax
from fedlas.gate.confident_errors import confident_answers, confident_errors


def says(confidence: float, right: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers "class 0" of one confidence (N, 2), so many of which are right."""
    return np.tile([confidence, 1 - confidence], (right + wrong, 1)), np.repeat([0, 1], [right, wrong])


@pytest.mark.parametrize(
    ("confidence", "right", "holds"),
    [(0.9, 90, True), (0.9, 86, True), (0.9, 82, False), (0.9, 60, False), (0.79, 20, True), (0.9, 100, True)],
)
def test_what_is_sure_must_be_right(confidence: float, right: int, holds: bool) -> None:
    """100 answers of 0.9: 86 right are within 0.05, 82 lie 2.7 calibrated errors below; under 0.8 none is sure."""
    found = confident_answers(*says(confidence, right, 100 - right))
    assert found.hold is holds
    if confidence >= 0.8:
        assert found.overall.value == pytest.approx(confidence - right / 100)
        assert found.worst_class.class_index == 0


def test_a_handful_of_answers_is_excused_by_chance() -> None:
    """One sure answer that is wrong has no scatter of its own: the error of a calibrated model counts, 0.3/√2."""
    found = confident_answers(*says(0.9, 0, 2))
    assert (found.hold, found.worst_class.class_index) == (True, None)
    assert found.overall.low == pytest.approx(0.9 - 1.96 * 0.3 / 2**0.5, rel=1e-3)
    assert found.overall.chance == pytest.approx(t(1).sf(0.9 / (0.3 / 2**0.5)))


def test_a_wrong_class_is_seen_among_many_right_ones() -> None:
    """Sure answers are right in 93 % of all and in 40 % of one class, which is named."""
    probs = np.full((900, 3), 0.05)
    predicted = np.repeat([0, 1], [840, 60])
    probs[np.arange(900), predicted] = 0.9
    targets = predicted.copy()
    targets[840:876] = 2
    targets[:30] = 2
    found = confident_answers(probs, targets)
    assert found.overall.passed
    assert (found.hold, found.decisive.class_index) == (False, 1)
    assert found.decisive.value == pytest.approx(0.9 - 24 / 60)


def test_an_upload_that_was_as_untrue_excuses_it() -> None:
    """The gap counts against that of the upload's own sure answers; where it had none, or was timid, against 0."""
    after, targets = says(0.9, 140, 60)
    excused = confident_errors(says(0.88, 140, 60)[0], after, targets).decisive
    assert (excused.passed, excused.value) == (True, pytest.approx(0.02))
    stopped = confident_errors(says(0.7, 140, 60)[0], after, targets).decisive
    assert (stopped.passed, stopped.value) == (False, pytest.approx(0.2))
    timid = np.where(np.arange(200)[:, None] < 50, [0.85, 0.15], [0.6, 0.4])
    assert confident_errors(timid, after, targets).decisive.value == pytest.approx(0.2)


def test_a_few_wrong_answers_excuse_as_few() -> None:
    """40 answers of 0.9 that are right in a half, before; 200 such answers have 40 excused: 0.4 less a fifth of it."""
    after, targets = says(0.9, 100, 100)
    few = np.where((np.arange(200) % 5 == 0)[:, None], [0.9, 0.1], [0.6, 0.4])
    found = confident_errors(few, after, targets).decisive
    assert (found.passed, found.value) == (False, pytest.approx(0.4 - 0.4 / 5))


def test_groups_count_whole() -> None:
    """Rows repeated ten times, once they are groups, are judged as the rows alone."""
    probs, targets = says(0.9, 16, 4)
    ten = (np.repeat(probs, 10, axis=0), np.repeat(targets, 10))
    alone, careless, grouped = (
        confident_answers(probs, targets).overall,
        confident_answers(*ten).overall,
        confident_answers(*ten, np.repeat(np.arange(20), 10)).overall,
    )
    assert (alone.passed, careless.passed, grouped.passed) == (True, False, True)
    assert grouped.chance == pytest.approx(alone.chance, rel=1e-6)


def test_a_forest_with_class_weights_may_not_become_sure_by_a_temperature() -> None:
    """8 % positives, weighted: a temperature below one is sure and wrong, Platt's line is true and passes."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6000, 6))
    logits = 1.5 * features[:, 0] + features[:, 1] * features[:, 2] - 3.4
    targets = (rng.random(6000) < 1 / (1 + np.exp(-logits))).astype(int)
    assert 0.06 < targets.mean() < 0.12
    forest = RandomForestClassifier(
        40, class_weight="balanced_subsample", min_samples_leaf=40, random_state=0, n_jobs=1
    )
    forest.fit(features[:2000], targets[:2000])
    uploaded = forest.predict_proba(features[2000:])
    scores, labels = np.log(uploaded.clip(1e-6)), targets[2000:]
    platt = softmax(AffineScaling().fit(scores[:2000], labels[:2000])(scores[2000:]))
    sharp = softmax(3 * scores[2000:])
    stopped = confident_errors(uploaded[2000:], sharp, labels[2000:]).decisive
    assert (stopped.passed, stopped.class_index) == (False, 1)
    assert confident_errors(uploaded[2000:], platt, labels[2000:]).decisive.passed
    assert platt[:, 1].mean() == pytest.approx(labels[2000:].mean(), rel=0.3)
