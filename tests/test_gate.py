"""The gate: what it promotes, what it refuses, and how often it errs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from fedlas.calibrators import softmax
from fedlas.errors import BadDataset
from fedlas.gate import Judgement, holm, judge
from fedlas.guards import _chance_of_losing


def world(num_rows: int = 1000, num_classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True logits and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, num_classes))
    return logits, (softmax(logits).cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)


def verdict(**changes: object) -> Judgement:
    """An overconfident upload, a perfect temperature, no trained finalist, unless changed."""
    logits, targets = world()
    settings = {
        "uploaded": softmax(3 * logits),
        "post_hoc": softmax(logits),
        "trained": None,
        "targets": targets,
        "provenance": "train_split",
        **changes,
    }
    return judge(**settings)  # type: ignore[arg-type]


def test_a_good_temperature_is_promoted() -> None:
    """Perfectly calibrated against three times too sure: shown, with a negative interval."""
    result = verdict()
    assert (result.verdict, result.promoted) == ("post_hoc", True)
    (comparison,) = result.claims[0].comparisons
    assert comparison.value < comparison.high < 0
    assert "promoted" in result.sentences[0]


def test_a_better_network_is_promoted() -> None:
    """A trained finalist that knows the truth beats an upload that sees it through noise, calibrated or not."""
    logits, _ = world()
    blurred = logits + np.random.default_rng(9).normal(scale=2, size=logits.shape)
    result = verdict(uploaded=softmax(3 * blurred), post_hoc=softmax(0.6 * blurred), trained=softmax(logits))
    assert result.verdict == "trained"
    assert [claim.finalist for claim in result.claims] == ["post_hoc", "trained"]
    assert {c.against for c in result.claims[1].comparisons} == {"uploaded", "post_hoc"}


def test_the_trained_finalist_must_beat_both() -> None:
    """As good as the temperature is not better: the post-hoc model is promoted."""
    logits, _ = world()
    result = verdict(trained=softmax(logits))
    assert result.verdict == "post_hoc"
    assert result.claims[1].p_value == 1.0
    assert not result.claims[1].shown


def test_nothing_better_changes_nothing() -> None:
    """Identical finalists leave the upload as it is, with p-values of 1."""
    logits, _ = world()
    same = softmax(logits)
    result = verdict(uploaded=same, post_hoc=same, trained=same)
    assert (result.verdict, result.promoted) == ("unchanged", False)
    assert [claim.p_value for claim in result.claims] == [1.0, 1.0]


@pytest.mark.parametrize("seed", [0, 1])
def test_false_promotions_are_rare(seed: int) -> None:
    """Finalists that differ from the upload by noise alone are promoted in about 5 % of draws or fewer."""
    rng = np.random.default_rng(seed)
    promoted = 0
    for draw in range(150):
        logits, targets = world(200, 3, seed=1000 * seed + draw)
        three = [softmax(logits + rng.normal(scale=0.5, size=logits.shape)) for _ in range(3)]
        result = judge(
            uploaded=three[0],
            post_hoc=three[1],
            trained=three[2],
            targets=targets,
            provenance="no",
            num_resamples=300,
            seed=draw,
            max_accuracy_drop=1.0,
        )
        promoted += result.promoted
    assert binomtest(promoted, 150, 0.05, alternative="greater").pvalue > 0.01


def test_unknown_provenance_is_undetermined() -> None:
    """Rows that the model may have seen judge nothing, and the sentence says what to send."""
    result = verdict(provenance="unknown")
    assert (result.verdict, result.promoted, result.claims) == ("undetermined", False, ())
    assert "seen_by_model=no" in result.sentences[0]


def test_accuracy_guards_a_promotion() -> None:
    """A finalist with a better score but an accuracy 2 points lower is stopped, and the sentence says so."""
    logits, targets = world()
    uploaded = softmax(3 * logits)
    trained = softmax(logits)
    right = np.flatnonzero(trained.argmax(axis=1) == targets)[:20]
    wrong = np.eye(5)[(targets[right] + 1) % 5]
    trained[right] = 0.5 * wrong + 0.5 * np.eye(5)[targets[right]] + np.eye(5)[(targets[right] + 1) % 5] * 1e-6
    trained /= trained.sum(axis=1, keepdims=True)
    result = verdict(uploaded=uploaded, post_hoc=uploaded, trained=trained)
    assert result.claims[1].shown
    assert result.verdict == "unchanged"
    stopped = {guard.name: guard for guard in result.guards if not guard.passed}
    assert stopped["accuracy_drop"].value == pytest.approx(0.02)
    assert any("accuracy" in sentence for sentence in result.sentences)


def test_the_worst_class_guards_a_promotion() -> None:
    """One class that loses a third of its recall stops a finalist whose accuracy is the same."""
    targets = np.repeat(np.arange(4), 100)
    before, after = np.full((400, 4), 0.01), np.full((400, 4), 0.1)
    predicted_before, predicted_after = targets.copy(), targets.copy()
    predicted_before[100:140] = 2
    predicted_after[:35] = 1
    before[np.arange(400), predicted_before] = 0.97
    after[np.arange(400), predicted_after] = 0.7
    result = verdict(uploaded=before, post_hoc=before, trained=after, targets=targets, num_resamples=500)
    guards = {guard.name: guard for guard in result.guards if guard.finalist == "trained"}
    assert guards["accuracy_drop"].passed
    assert guards["worst_class_recall_drop"].value == pytest.approx(0.35)
    assert not guards["worst_class_recall_drop"].passed


def test_the_chance_of_losing_is_the_exact_sign_test() -> None:
    """SciPy's binomial test is met exactly, and closely beyond 2,000 changed rows."""
    for lost, won in ((6, 1), (40, 22), (0, 3), (1100, 1000)):
        referee = binomtest(lost, lost + won, 0.5, alternative="greater").pvalue
        assert _chance_of_losing(lost, won) == pytest.approx(referee, rel=0.01)


def test_holm_is_holm() -> None:
    """The smallest p-value is tested at level / m and a failure stops everything after it."""
    assert holm([0.02, 0.04], 0.05) == ([0.025, 0.05], [True, True])
    assert holm([0.03, 0.001], 0.05) == ([0.05, 0.025], [True, True])
    assert holm([0.03, 0.04], 0.05)[1] == [False, False]


def test_groups_are_resampled_whole() -> None:
    """Rows repeated ten times give the certainty of the tenth, once they are declared groups."""
    logits, targets = world(40, seed=4)
    blurred = logits + np.random.default_rng(1).normal(size=logits.shape)
    many = {
        "uploaded": np.repeat(softmax(blurred), 10, axis=0),
        "post_hoc": np.repeat(softmax(logits), 10, axis=0),
        "targets": np.repeat(targets, 10),
    }
    alone, grouped = verdict(**many), verdict(**many, groups=np.repeat(np.arange(40), 10))
    widths = [r.claims[0].comparisons[0].high - r.claims[0].comparisons[0].low for r in (alone, grouped)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(10), rel=0.15)


@pytest.mark.parametrize("score", ["brier", "nll"])
def test_the_score_is_the_named_one(score: str) -> None:
    """The difference shown is that of the named score, computed here by hand."""
    logits, targets = world()
    two = [softmax(logits), softmax(3 * logits)]
    by_hand = {
        "nll": [-np.log(p[np.arange(len(targets)), targets]).mean() for p in two],
        "brier": [((p - np.eye(5)[targets]) ** 2).sum(axis=1).mean() for p in two],
    }[score]
    shown = verdict(score=score).claims[0].comparisons[0].value
    assert shown == pytest.approx(by_hand[0] - by_hand[1], rel=1e-9)


def test_too_few_test_rows_are_refused() -> None:
    """Nine test rows judge nothing."""
    logits, targets = world(9)
    with pytest.raises(BadDataset, match="9 rows") as caught:
        verdict(uploaded=softmax(logits), post_hoc=softmax(logits), targets=targets)
    assert caught.value.code == "split_too_small"


def test_wrong_options_are_refused() -> None:
    """An unknown provenance and a confidence level out of range are ValueErrors."""
    for wrong in ({"provenance": "maybe"}, {"confidence_level": 95}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            verdict(**wrong)


def test_the_other_proper_score_guards_a_promotion() -> None:
    """A finalist that is better in Brier but says 1e-9 where it is wrong, which ruins NLL, is not promoted."""
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 2, 2000)
    right = np.where(rng.random(2000) < 0.9, targets, 1 - targets)
    uploaded = np.full((2000, 2), 0.45)
    uploaded[np.arange(2000), right] = 0.55
    reckless = np.full((2000, 2), 1e-9)
    reckless[np.arange(2000), right] = 1 - 1e-9
    judgement = judge(uploaded=uploaded, post_hoc=uploaded, trained=reckless, targets=targets, provenance="no")
    assert judgement.claims[1].shown
    guard = next(g for g in judgement.guards if g.name == "nll_rise" and g.finalist == "trained")
    assert not guard.passed
    assert guard.value > 1
    assert judgement.verdict == "unchanged"
    assert any("worse in NLL" in sentence for sentence in judgement.sentences)
