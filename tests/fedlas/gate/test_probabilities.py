"""Log score, share and confident answers of each class: their values, and when they stop a finalist."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss

from fedlas.calibrators import AffineScaling, softmax
from fedlas.gate.probabilities import confident_answers, confident_errors, log_score_rise, share_error
from tests.helpers.drawn_rows import drawn_logits


def scaled(probs: np.ndarray, class_index: int, factor: float) -> np.ndarray:
    """The odds of one class times a factor."""
    changed = probs.copy()
    changed[:, class_index] *= factor
    return changed / changed.sum(axis=1, keepdims=True)


def test_the_log_score_of_a_class_is_that_of_the_class_against_the_rest() -> None:
    """The largest relative rise is what scikit-learn's log loss of each column gives."""
    logits, targets = drawn_logits(2000, 4)
    before, after = softmax(logits), scaled(softmax(logits), 2, 0.1)
    losses = [[log_loss(targets == k, probs[:, k]) for k in range(4)] for probs in (before, after)]
    rises = np.divide(losses[1], losses[0]) - 1
    found = log_score_rise(before, after, targets, None)
    assert (found.passed, found.class_index) == (False, int(rises.argmax()))
    assert found.value == pytest.approx(rises.max())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_a_forgotten_class_is_stopped_by_its_score_and_by_its_share() -> None:
    """A probability divided by a thousand keeps the order of the rows, and is seen all the same."""
    logits, targets = drawn_logits(1000, 5)
    before, after = softmax(logits), scaled(softmax(logits), 3, 0.001)
    for found in (log_score_rise(before, after, targets, None), share_error(before, after, targets, None)):
        assert (found.passed, found.class_index) == (False, 3)


def test_rare_classes_are_judged_together() -> None:
    """Twenty classes of 10 rows and one of 600; small ones predicted half as often: one finding without a class."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(21), [600] + [10] * 20)
    before = softmax(np.log([600] + [10] * 20) + 3.0 * np.eye(21)[targets] + rng.normal(size=(800, 21)))
    after = before.copy()
    after[:, 1:] *= 0.02
    after /= after.sum(axis=1, keepdims=True)
    hits = np.eye(21)[targets].astype(bool)

    def rare(probs: np.ndarray) -> float:
        return float(-np.log(np.where(hits, probs, 1 - probs))[:, 1:].sum(axis=1).mean())

    common = [log_loss(targets == 0, probs[:, 0]) for probs in (before, after)]
    found = log_score_rise(before, after, targets, None)
    assert not found.passed
    assert found.value == pytest.approx(max(rare(after) / rare(before), common[1] / common[0]) - 1)


def test_the_factor_of_a_share_is_counted_by_hand() -> None:
    """100 of 500 rows are of a class that gets 0.4 of them: (200 + ½)/(100 + ½), where it was right before."""
    targets = np.repeat([0, 1, 2], [100, 200, 200])
    before, after = np.tile([0.2, 0.4, 0.4], (500, 1)), np.tile([0.4, 0.3, 0.3], (500, 1))
    found = share_error(before, after, targets, None)
    assert (found.passed, found.class_index) == (False, 0)
    assert found.value == pytest.approx(200.5 / 100.5)
    # The error is that of two samples of 500 rows of 0.4: 100/√240 = 6.5 standard errors.
    assert found.chance == pytest.approx(t(499).sf(100 / 240**0.5))


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [(0.1, 0.12, True), (0.25, 0.25, True), (0.25, 0.28, True), (0.25, 0.32, False), (0.1, 0.3, False)],
)
def test_a_share_stops_where_it_is_wrong_and_worse_than_before(before: float, after: float, passed: bool) -> None:
    """A class of 10 %: 2.5 times too common is let pass as before, not a fifth worse; newly wrong neither."""
    targets = np.repeat([1, 0], [100, 900])
    assert share_error(*(np.tile([1 - p, p], (1000, 1)) for p in (before, after)), targets, None).passed is passed


def test_few_rows_do_not_show_a_wrong_share() -> None:
    """Six rows of 200 where 2.5 were expected are chance; with 10 times as many of each they are not."""
    for times, passed in ((1, True), (10, False)):
        targets = np.repeat([1, 0], [6 * times, 194 * times])
        probs = [np.tile([1 - p, p], (200 * times, 1)) for p in (0.03, 0.0125)]
        assert share_error(*probs, targets, None).passed is passed


def test_a_class_without_rows_has_a_factor() -> None:
    """Half a row stands in for none: 40 expected of 0 are 81 times too many, and finite."""
    targets = np.repeat([0, 1], [200, 200])
    before, after = np.tile([0.5, 0.5, 0.0], (400, 1)), np.tile([0.45, 0.45, 0.1], (400, 1))
    found = share_error(before, after, targets, None)
    assert (found.passed, found.class_index, found.value) == (False, 2, pytest.approx(81))


def test_probabilities_of_nought_and_one_are_finite() -> None:
    """A model that is always right with certainty, and one that is certain and wrong, have finite rises."""
    targets = np.repeat([0, 1, 2], 60)
    right, wrong = np.eye(3)[targets], np.eye(3)[(targets + 1) % 3]
    same, worse = (log_score_rise(right, after, targets, None) for after in (right, wrong))
    assert (same.passed, same.value) == (True, 0.0)
    assert not worse.passed
    assert np.isfinite(worse.value)


def test_one_group_alone_proves_nothing() -> None:
    """All rows of one group: no error can be computed, so nothing is shown and nothing is NaN."""
    logits, targets = drawn_logits(400, 3)
    before, after = softmax(logits), scaled(softmax(logits), 1, 0.1)
    groups = np.zeros(400, dtype=int)
    for found in (log_score_rise(before, after, targets, groups), share_error(before, after, targets, groups)):
        assert found.passed
        assert found.chance == pytest.approx(0.5)
        assert np.isfinite(found.value)


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
    settings = {"class_weight": "balanced_subsample", "min_samples_leaf": 40, "random_state": 0, "n_jobs": 1}
    forest = RandomForestClassifier(40, **settings).fit(features[:2000], targets[:2000])
    uploaded = forest.predict_proba(features[2000:])
    scores, labels = np.log(uploaded.clip(1e-6)), targets[2000:]
    platt = softmax(AffineScaling().fit(scores[:2000], labels[:2000])(scores[2000:]))
    stopped = confident_errors(uploaded[2000:], softmax(3 * scores[2000:]), labels[2000:]).decisive
    assert (stopped.passed, stopped.class_index) == (False, 1)
    assert confident_errors(uploaded[2000:], platt, labels[2000:]).decisive.passed
    assert platt[:, 1].mean() == pytest.approx(labels[2000:].mean(), rel=0.3)
