"""FedLAS's own diagnostics: the AUROC against a referee, sentences that say what numbers say, wrong labels counted."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedlas.report.diagnostics import auroc, fedlas_diagnostics, sensitivity


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_agrees_with_scikit_learn(ties: bool) -> None:
    """AUROC is scikit-learn's, where a tie counts half."""
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.7
    scores = rng.normal(size=300) + right
    scores = np.round(scores) if ties else scores
    found = auroc(scores, right)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(right, scores), rel=1e-12)
    assert found.low < found.value < found.high


def test_the_interval_of_the_auroc_covers() -> None:
    """Normal scores one deviation apart have AUROC Φ(1/√2) = 0.7602, held in at least 88 of 100 draws."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        right = np.arange(200) < 140
        found = auroc(rng.normal(size=200) + right, right)
        assert found is not None
        held += found.low <= 0.76025 <= found.high
    assert held >= 88


def test_perfect_separation_keeps_a_width() -> None:
    """Five against five rows without overlap do not prove an AUROC of exactly 1; one kind only has none."""
    found = auroc(np.arange(10.0), np.arange(10) >= 5)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low < 0.99
    assert auroc([1.0, 2.0], [1, 1]) is None


def test_a_norm_that_knows_nothing_is_called_so() -> None:
    """Random norms: not useful, and the sentence says that FedLAS cannot tell rows apart; telling norms: useful."""
    rng = np.random.default_rng(1)
    right = rng.random(500) < 0.8
    blind = fedlas_diagnostics(feature_norms=rng.normal(size=500), correct=right)
    assert blind.feature_norm.useful is False
    assert "hardly predicts correctness" in blind.sentences[0]
    telling = fedlas_diagnostics(feature_norms=rng.normal(size=500) - 2 * right, correct=right)
    assert telling.feature_norm.useful is True
    assert "smaller where the model is right" in telling.sentences[0]


def test_smoothing_and_gate_are_counted() -> None:
    """Means on right and wrong rows, their difference, and the share of rows whose gate was turned."""
    right = np.array([True] * 6 + [False] * 4)
    epsilon = np.array([0.01, 0.02, 0.03] * 2 + [0.1, 0.12, 0.08, 0.1])
    gate = np.array([1, 1, 1, 1, 1, -1, -1, -1, -1, -1])
    told = {"feature_norms": np.arange(10.0), "correct": right, "gate_before": np.ones(10)}
    found = fedlas_diagnostics(epsilon=epsilon, gate=gate, **told)
    assert found.epsilon.right.value == pytest.approx(0.02)
    assert found.epsilon.wrong.value == pytest.approx(0.1)
    assert found.epsilon.wrong_minus_right.low > 0
    assert (found.gate.flipped.value, found.gate.positive.value) == (0.5, 0.5)
    assert found.sentences[-1] == "FedLAS means to smooth labels more where the model errs, and did so here."


def test_a_perfect_model_has_diagnostics_without_figures() -> None:
    """No wrong row: no AUROC, no mean on wrong rows, and a sentence on that."""
    found = fedlas_diagnostics(feature_norms=np.arange(20.0), correct=np.ones(20), epsilon=np.full(20, 0.1))
    assert found.feature_norm is None
    assert found.epsilon.wrong is None
    assert "nothing can tell" in found.sentences[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_norms": [1.0, np.nan], "correct": [1, 0]}, "feature_norms must be"),
        ({"feature_norms": [1.0, 2.0], "correct": [1]}, "correct must be 2 times"),
        ({"feature_norms": [1.0, 2.0], "correct": [1, 2]}, "correct must be 2 times"),
        ({"feature_norms": [1.0, 2.0], "correct": [1, 0], "gate": [1, 3]}, "gate must hold signs"),
        ({"feature_norms": [1.0, 2.0], "correct": [1, 0], "epsilon": [0.1]}, r"epsilon must be \(2,\)"),
    ],
)
def test_wrong_arrays_are_named(arguments: dict[str, list[float]], message: str) -> None:
    """The message says which and what is needed."""
    with pytest.raises(ValueError, match=message):
        fedlas_diagnostics(**arguments)  # type: ignore[arg-type]


def test_so_many_labels_go_evenly_to_other_classes() -> None:
    """Five per cent of 1,000 labels change in every draw, each of the other classes gets a third."""
    targets = np.zeros(1000, dtype=np.int64)
    seen: list[np.ndarray] = []

    def rejudge(labels: np.ndarray) -> str:
        seen.append(labels)
        return "unchanged"

    found = sensitivity(rejudge, targets, 4, shares=[0.05], draws=200)
    assert (seen[0] == targets).all()
    assert {int((labels != 0).sum()) for labels in seen[1:]} == {50}
    counts = np.bincount(np.concatenate(seen[1:]), minlength=4)[1:]
    assert np.abs(counts - 10000 / 3).max() < 250  # about five standard deviations
    assert found.levels[0].rows == 50


def test_verdicts_are_counted_and_said() -> None:
    """A verdict that hangs on the first label changes where that label does, and the sentence gives the count."""
    targets = np.arange(10) % 2

    def verdict(labels: np.ndarray) -> str:
        return "trained" if labels[0] == 0 else "unchanged"

    found = sensitivity(verdict, targets, 2, shares=[0.1, 0.5], draws=400, seed=3)
    assert found.verdict == "trained"
    for level, expected in zip(found.levels, (0.9, 0.5), strict=True):
        assert level.verdicts["trained"] == pytest.approx(expected, abs=0.1)
        assert level.same == round(400 * level.verdicts["trained"])
    assert f"the same in {found.levels[1].same} of 400 draws" in found.sentences[1]


def test_the_seed_decides() -> None:
    """One seed always asks about the same labels."""

    def verdict(labels: np.ndarray) -> str:
        return str(labels.sum() % 7)

    targets = np.arange(200) % 5
    assert sensitivity(verdict, targets, 5, seed=1) == sensitivity(verdict, targets, 5, seed=1)
    assert sensitivity(verdict, targets, 5, seed=1) != sensitivity(verdict, targets, 5, seed=2)
