"""The guards: what they stop, what they let pass, and what they say about it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from fedlas.calibrators import softmax
from fedlas.gate.gate import judge
from fedlas.gate.non_inferiority import GateOptions, Guard, JudgedRows, accuracy_drop, chance_of_losing, guard_finalist
from fedlas.metrics import aurc


def guards(before: np.ndarray, after: np.ndarray, targets: np.ndarray, **options: object) -> dict[str, Guard]:
    """The guards of a trained finalist, by name."""
    probs = {"uploaded": before, "post_hoc": before, "trained": after}
    found = guard_finalist("trained", probs, JudgedRows(targets, None), GateOptions(**options))  # type: ignore[arg-type]
    return {guard.name: guard for guard in found}


def answers(predicted: np.ndarray, num_classes: int, confidence: float = 0.9) -> np.ndarray:
    """Probabilities whose top label is the one that is predicted."""
    probs = np.full((len(predicted), num_classes), (1 - confidence) / (num_classes - 1))
    probs[np.arange(len(predicted)), predicted] = confidence
    return probs


def changed(targets: np.ndarray, rows: range | list[int], num_classes: int) -> np.ndarray:
    """All right but for the rows given."""
    predicted = targets.copy()
    predicted[list(rows)] = (targets[list(rows)] + 1) % num_classes
    return predicted


def test_the_chance_of_losing_is_the_exact_sign_test() -> None:
    """SciPy's binomial test is met exactly, and closely beyond 2,000 changed rows."""
    for lost, won in ((6, 1), (40, 22), (0, 3), (1100, 1000)):
        referee = binomtest(lost, lost + won, 0.5, alternative="greater").pvalue
        assert chance_of_losing(lost, won) == pytest.approx(referee, rel=0.01)


def test_missing_every_rare_positive_is_stopped() -> None:
    """3 positives of 1,000 rows: a candidate that never says yes loses 0.3 points of accuracy and is not promoted."""
    targets = np.zeros(1000, dtype=int)
    targets[:3] = 1
    before = np.full((1000, 2), [0.6, 0.4])
    before[:3] = [0.4, 0.6]
    after = np.full((1000, 2), [0.997, 0.003])
    result = judge(uploaded=before, post_hoc=after, trained=None, targets=targets, provenance="no")
    assert result.claims[0].shown
    stopped = {guard.name: guard for guard in result.guards if not guard.passed}
    assert (stopped["rare_classes_recall_drop"].class_index, stopped["rare_classes_recall_drop"].value) == (1, 1.0)
    assert "accuracy_drop" not in stopped
    assert result.verdict == "unchanged"
    assert any("(class 1)" in sentence for sentence in result.sentences)


def test_one_positive_row_is_enough_in_a_binary_problem_only() -> None:
    """The only positive is found no more: stopped; with six classes one row is an accident, two are not."""
    two = np.array([1] + [0] * 99)
    assert not guards(answers(two, 2), answers(np.zeros(100, int), 2), two)["rare_classes_recall_drop"].passed
    six = np.array([1, 2, 2] + [0] * 97)
    for missed, passed in (([0], True), ([1, 2], False), ([1], True)):
        after = answers(changed(six, missed, 6), 6)
        assert guards(answers(six, 6), after, six)["rare_classes_recall_drop"].passed is passed


def test_small_classes_together_are_tested_like_one() -> None:
    """Forty classes of 10 rows that lose one row each: 10 points that no single class could show."""
    targets = np.repeat(np.arange(40), 10)
    found = guards(answers(targets, 40), answers(changed(targets, range(0, 400, 10), 40), 40), targets)
    guard = found["rare_classes_recall_drop"]
    assert (guard.passed, guard.class_index) == (False, None)
    assert guard.value == pytest.approx(0.1)
    assert found["worst_class_recall_drop"].value == 0.0


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (3, True), (4, False), (12, False)])
def test_a_class_of_fifty_rows_may_lose_five_points_or_what_chance_takes(lost: int, passed: bool) -> None:
    """Two classes, 50 rows: 4 points are allowed, 6 are chance (3 of 3 rows: 12.5 %), 8 are not."""
    targets = np.repeat([0, 1], 50)
    guard = guards(answers(targets, 2), answers(changed(targets, range(lost), 2), 2), targets)[
        "worst_class_recall_drop"
    ]
    assert guard.passed is passed
    assert (guard.class_index, guard.value) == (0, pytest.approx(lost / 50))
    assert guard.chance == pytest.approx(0.5**lost)
    assert guard.low is not None
    assert guard.high is not None
    assert guard.low < guard.value < guard.high


def test_a_loss_that_chance_explains_is_said() -> None:
    """Beyond five points but not shown: promoted, with a sentence that names the class."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], [60, 600])
    before = changed(targets, [5, *rng.choice(np.arange(60, 660), 150, replace=False).tolist()], 2)
    after = changed(targets, range(5), 2)
    result = judge(
        uploaded=answers(before, 2),
        post_hoc=answers(before, 2),
        trained=answers(after, 2),
        targets=targets,
        provenance="no",
    )
    guard = next(g for g in result.guards if g.finalist == "trained" and g.name == "worst_class_recall_drop")
    assert guard.value == pytest.approx(4 / 60)
    assert guard.chance == pytest.approx(binomtest(5, 6, 0.5, alternative="greater").pvalue)
    assert (guard.passed, result.verdict) == (True, "trained")
    assert any("class 0" in sentence and "chance explains it" in sentence for sentence in result.sentences)


def test_accuracy_and_aurc_are_judged_by_their_points_and_shown_with_intervals() -> None:
    """The values are the metrics' own differences, inside their intervals."""
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(800, 4))
    targets = (softmax(logits).cumsum(axis=1) > rng.random((800, 1))).argmax(axis=1)
    before, after = softmax(logits), softmax(logits + 0.6 * rng.normal(size=logits.shape))
    found = guards(before, after, targets, num_resamples=300)
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


def test_harmless_networks_are_seldom_stopped_by_a_class() -> None:
    """Ten classes of 100 rows, 8 % of the answers changed by luck: the class guard stops fewer than one in four."""
    rng, stopped = np.random.default_rng(2), 0
    targets = np.repeat(np.arange(10), 100)
    for _ in range(100):
        draw = rng.random(1000)
        before = changed(targets, np.flatnonzero(draw < 0.04).tolist(), 10)
        after = changed(targets, np.flatnonzero((draw > 0.04) & (draw < 0.08)).tolist(), 10)
        found = guards(answers(before, 10), answers(after, 10), targets, num_resamples=2)
        stopped += not found["worst_class_recall_drop"].passed
    assert stopped < 25
