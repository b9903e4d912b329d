"""Guards: the harm that they stop, and the harm that they let pass; the ledger: evaluations share the level."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.calibrators import softmax
from fedlas.contract.report import GateGuard
from fedlas.contract.requests import GateOptions
from fedlas.gate.gate import ledger_level
from fedlas.gate.guards import GUARD_NAMES, JudgedRows, JudgementOptions, accuracy_drop, guard_finalist
from fedlas.metrics import aurc
from tests.helpers.drawn_rows import answers, changed


def guards(
    before: np.ndarray, after: np.ndarray, targets: np.ndarray, options: JudgementOptions | None = None
) -> dict[str, GateGuard]:
    """The guards of a trained finalist, by name."""
    probs = {"uploaded": before, "post_hoc": before, "trained": after}
    found = guard_finalist("trained", probs, JudgedRows(targets, None), options or JudgementOptions())
    return {guard.name: guard for guard in found}


def test_accuracy_and_aurc_are_judged_by_their_points_and_shown_with_intervals() -> None:
    """The values are the metrics' own differences, inside their intervals."""
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(800, 4))
    targets = (softmax(logits).cumsum(axis=1) > rng.random((800, 1))).argmax(axis=1)
    before, after = softmax(logits), softmax(logits + 0.6 * rng.normal(size=logits.shape))
    found = guards(before, after, targets, JudgementOptions(num_resamples=300))
    hits = [(p.argmax(axis=1) == targets).mean() for p in (before, after)]
    assert found["accuracy_drop"].value == pytest.approx(hits[0] - hits[1])
    assert found["aurc_rise"].value == pytest.approx(aurc(after, targets) - aurc(before, targets))
    assert found["aurc_rise"].limit == pytest.approx(max(0.005, 0.05 * aurc(before, targets)))
    for name in ("accuracy_drop", "aurc_rise"):
        guard = found[name]
        assert (guard.low or 0) < guard.value < (guard.high or 0)
        assert guard.passed is (guard.value <= guard.limit)


def test_the_interval_of_an_accuracy_drop_knows_which_answers_changed() -> None:
    """With one answer in 1,000 changed, the interval is that of a share of 1 to 1,000, not of two accuracies."""
    targets = np.zeros(1000, dtype=int)
    found = accuracy_drop(answers(targets, 2), answers(changed(targets, [0], 2), 2), JudgedRows(targets, None), 0.05)
    assert found.value == pytest.approx(0.001)
    assert found.high == pytest.approx(0.00556, rel=0.02)  # Clopper and Pearson
    assert -0.004 < found.low < 0.001


def test_an_accuracy_drop_at_the_limit_passes() -> None:
    """Five rows of 1,000 are 0.005 exactly; six are too many."""
    targets = np.repeat([0, 1], 500)
    for lost, passed in ((5, True), (6, False)):
        after = answers(changed(targets, range(lost), 2), 2)
        assert guards(answers(targets, 2), after, targets)["accuracy_drop"].passed is passed


def test_chance_excuses_a_small_loss_of_accuracy() -> None:
    """Eight of 400 answers lost and five won are chance; eight lost and none won are not, nor eighteen and eight."""
    targets = np.repeat([0, 1], 200)
    wrong = range(300, 310)
    before = answers(changed(targets, wrong, 2), 2)
    for lost, won, passed in ((8, 5, True), (8, 0, False), (18, 8, False)):
        guard = guards(before, answers(changed(targets, [*range(lost), *wrong[won:]], 2), 2), targets)["accuracy_drop"]
        assert (guard.value, guard.passed) == (pytest.approx((lost - won) / 400), passed)


def test_every_guard_has_a_name_and_recall_counts_where_it_is_asked_for() -> None:
    """A rare class that is named no more, in the order of before: stopped with `max_recall_drop` alone."""
    targets = np.repeat([0, 1], [960, 40])
    before = np.where(targets[:, None] == 1, [0.4, 0.6], [0.6, 0.4])
    after = np.where(targets[:, None] == 1, [0.6, 0.4], [0.999, 0.001])
    recall = JudgementOptions(GateOptions(max_recall_drop=0.05))
    by_default, asked = guards(before, after, targets), guards(before, after, targets, recall)
    assert asked.keys() - by_default.keys() == {"worst_class_recall_drop", "rare_classes_recall_drop"}
    assert asked.keys() <= GUARD_NAMES.keys()
    assert [name for name, guard in asked.items() if not guard.passed] == ["accuracy_drop", "rare_classes_recall_drop"]


def test_the_label_keeping_finalist_is_what_a_class_is_compared_with() -> None:
    """Worse about a class than a temperature is stopped, though the overconfident upload says it worse."""
    rng = np.random.default_rng(4)
    logits = 2 * rng.normal(size=(3000, 3))
    targets = (softmax(logits).cumsum(axis=1) > rng.random((3000, 1))).argmax(axis=1)
    blurred = softmax(logits + np.array([0.0, 0.0, 0.8]))
    probs = {"uploaded": softmax(4 * logits), "same_labels": softmax(logits), "trained": blurred, "post_hoc": blurred}
    found = guard_finalist("post_hoc", probs, JudgedRows(targets, None), JudgementOptions(num_resamples=2))
    alone = guard_finalist("same_labels", probs, JudgedRows(targets, None), JudgementOptions(num_resamples=2))
    rises = [next(g for g in gs if g.name == "class_log_score_rise") for gs in (found, alone)]
    assert [rise.passed for rise in rises] == [False, True]
    assert rises[1].value < 0


def test_the_ledger_spends_no_more_than_the_level() -> None:
    """All looks together spend at most the level, the first one three quarters of it, and each one less than before."""
    levels = [ledger_level(look, 0.05) for look in range(10_000)]
    assert levels[0] == pytest.approx(0.0375)
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) <= 0.05
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match="evaluations_before"):
            ledger_level(wrong, 0.05)  # type: ignore[arg-type]
