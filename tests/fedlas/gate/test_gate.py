"""The gate and its guards: what it serves, what it shows, what it refuses, and how often it errs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from fedlas.calibrators import softmax
from fedlas.contract.report import GateClaim, GateGuard, GateVerdict, GateVeto, ScoreDifference
from fedlas.contract.requests import GateOptions
from fedlas.errors import BadDataset
from fedlas.gate.gate import checked_finalists, claims_on, judge, ledger_level, sentences_of, verdict_alone
from fedlas.gate.guards import GUARD_NAMES, JudgedRows, JudgementOptions, accuracy_drop, guard_finalist, score_rise
from fedlas.metrics import aurc
from tests.helpers.drawn_rows import answers, changed, drawn_logits
from tests.helpers.refusals import refusal
from tests.helpers.reports import CALIBRATOR, UNCHANGED


def verdict(seed: int = 0, num_resamples: int = 1000, **changes: Any) -> GateVerdict:
    """An overconfident upload, a perfect temperature, no trained finalist, unless changed."""
    logits, targets = drawn_logits()
    settings = {
        "uploaded": softmax(3 * logits),
        "post_hoc": softmax(logits),
        "targets": targets,
        "provenance": "train_split",
        **changes,
    }
    names = ("uploaded", "same_labels", "post_hoc", "trained", "average")
    probs = {name: settings.pop(name) for name in names if name in settings}
    gate = GateOptions(**{name: settings.pop(name) for name in GateOptions.model_fields if name in settings})
    return judge(probs, settings.pop("targets"), JudgementOptions(gate, seed, num_resamples), **settings)


def test_a_good_temperature_is_promoted() -> None:
    """Perfectly calibrated against three times too sure: shown, with a negative interval."""
    result = verdict()
    assert (result.verdict, result.serves, result.significant) == ("post_hoc", "calibrated", True)
    (comparison,) = result.claims[0].comparisons
    assert comparison.value < comparison.high < 0
    assert "show the post-hoc calibrator to be better" in result.sentences[0]


def test_a_better_network_is_promoted() -> None:
    """A trained finalist that knows the truth beats an upload that sees it through noise, calibrated or not."""
    logits, _ = drawn_logits()
    blurred = logits + np.random.default_rng(9).normal(scale=2, size=logits.shape)
    result = verdict(uploaded=softmax(3 * blurred), post_hoc=softmax(0.6 * blurred), trained=softmax(logits))
    assert result.verdict == "trained"
    assert [claim.finalist for claim in result.claims] == ["post_hoc", "trained", "trained"]
    assert [[one.against for one in claim.comparisons] for claim in result.claims[1:]] == [["uploaded"], ["post_hoc"]]
    assert (result.significant, result.beats_simpler) == (True, True)


def test_a_network_that_is_as_good_as_a_temperature_is_significant_and_beats_nothing_simpler() -> None:
    """Better than the upload is one claim, better than the calibrator another, in a sentence each."""
    logits, _ = drawn_logits()
    result = verdict(trained=softmax(logits))
    assert (result.verdict, result.significant, result.beats_simpler) == ("trained", True, False)
    assert (
        "show the fine-tuned model to be better than the uploaded model (Brier score). They do not"
        in (result.sentences[0])
    )
    assert [claim.p_value for claim in result.claims[1:]] == [pytest.approx(0, abs=1e-9), 1.0]
    assert verdict().beats_simpler is None


def test_levels_are_split_as_if_every_claim_had_to_beat_everything() -> None:
    """A wider claim that fails holds the others at their part of the level; the one on the upload is tested with them.

    Hence no truth lets more than one run of Holm's procedure err.
    """
    logits, targets = drawn_logits(2000)
    probs = {"uploaded": softmax(1.5 * logits), "post_hoc": softmax(logits), "trained": softmax(logits)}
    rows = JudgedRows(targets, None)
    post_hoc, alone, wider = claims_on(("post_hoc", "trained"), probs, rows, "brier", level=0.04)
    assert alone.p_value == post_hoc.p_value < 0.02
    assert (post_hoc.level, alone.level, wider.level, wider.significant) == (0.02, 0.04, 0.04, False)
    between = 1.5 * post_hoc.p_value
    claims = claims_on(("post_hoc", "trained"), probs, rows, "brier", level=between)
    assert [claim.significant for claim in claims] == [False, False, False]


def test_what_is_no_better_is_served_and_not_shown() -> None:
    """Finalists equal to the upload are in line before it, with p-values of 1: a pool needs no proof, only no veto."""
    logits, _ = drawn_logits()
    same = softmax(logits)
    result = verdict(uploaded=same, post_hoc=same, trained=same)
    assert (result.verdict, result.serves, result.significant) == ("trained", "calibrated", False)
    assert [claim.p_value for claim in result.claims] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("max_recall_drop", [None, 0.02])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_verdict_alone_is_that_of_the_whole_judgement(grouped: bool, max_recall_drop: float | None) -> None:
    """Both verdicts agree for finalists that are tilted, sharpened and flattened, and for some wrong labels."""
    rng, found = np.random.default_rng(5), set()
    options = JudgementOptions(GateOptions(max_recall_drop=max_recall_drop))
    logits, targets = drawn_logits(400)
    groups = rng.integers(80, size=len(targets)) if grouped else None
    for draw in range(12):
        wrong = np.where(rng.random(len(targets)) < 0.01 * draw, rng.integers(5, size=len(targets)), targets)
        given = {
            name: softmax(logits * rng.choice([0.7, 1, 2]) + rng.normal(scale=rng.choice([0, 0.5]), size=(1, 5)))
            for name in ("uploaded", "same_labels", "post_hoc", "trained", "average")
        }
        whole = judge(given, wrong, options, groups=groups, provenance="no")
        probs, rows = checked_finalists(given, wrong, groups)
        assert verdict_alone(probs, rows, options) == whole.verdict
        found.add(whole.finalist)
    assert len(found) >= 3


@pytest.mark.parametrize("seed", [0, 1])
def test_false_claims_are_rare(seed: int) -> None:
    """Finalists that differ from the upload by noise alone are shown to be better in about 5 % of draws or fewer."""
    rng = np.random.default_rng(seed)
    shown = 0
    for draw in range(100):
        logits, targets = drawn_logits(200, 3, seed=1000 * seed + draw)
        three = [softmax(logits + rng.normal(scale=0.5, size=logits.shape)) for _ in range(3)]
        result = judge(
            {"uploaded": three[0], "post_hoc": three[1], "trained": three[2]},
            targets,
            provenance="no",
            options=JudgementOptions(GateOptions(max_accuracy_drop=1.0), draw, 2),
        )
        shown += any(claim.significant for claim in result.claims)
    assert binomtest(shown, 100, 0.05, alternative="greater").pvalue > 0.01


def test_unknown_provenance_is_undetermined() -> None:
    """Rows that the model may have seen judge nothing, and the sentence says what to send."""
    result = verdict(provenance="unknown")
    assert (result.verdict, result.serves, result.claims) == ("undetermined", "uploaded", ())
    assert "seen_by_model=no" in result.sentences[0]


def test_accuracy_guards_a_promotion() -> None:
    """A finalist with a better score but an accuracy 2 points lower is stopped, and the sentence says so."""
    logits, targets = drawn_logits()
    uploaded = softmax(3 * logits)
    trained = softmax(logits)
    right = np.flatnonzero(trained.argmax(axis=1) == targets)[:20]
    wrong = np.eye(5)[(targets[right] + 1) % 5]
    trained[right] = 0.5 * wrong + 0.5 * np.eye(5)[targets[right]] + np.eye(5)[(targets[right] + 1) % 5] * 1e-6
    trained /= trained.sum(axis=1, keepdims=True)
    result = verdict(uploaded=uploaded, post_hoc=uploaded, trained=trained)
    assert result.claims[1].significant
    assert result.order == ("post_hoc",)
    stopped = {guard.name: guard for guard in result.guards if not guard.passed}
    assert stopped["accuracy_drop"].value == pytest.approx(0.02)
    assert any("accuracy" in sentence for sentence in result.sentences)


def test_the_worst_class_guards_a_promotion() -> None:
    """One class that is found a third less at equal alarms stops a finalist whose accuracy is the same."""
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
    # 100 alarms as before: the 65 rows of 0.7, and 35 of the 335 that share the last place, 35 of them of the class.
    recall = guards["recall_at_equal_alarms_drop"]
    assert (recall.passed, recall.class_index) == (False, 0)
    assert recall.value == pytest.approx(0.35 - 35 * 35 / 335 / 100)


def test_groups_count_whole() -> None:
    """Rows repeated ten times, once they are declared groups, give exactly what the rows alone give."""
    logits, targets = drawn_logits(40, seed=4)
    blurred = logits + np.random.default_rng(1).normal(size=logits.shape)
    once = {"uploaded": softmax(blurred), "post_hoc": softmax(logits), "targets": targets}
    many = {name: np.repeat(values, 10, axis=0) for name, values in once.items()}
    alone, careless, grouped = verdict(**once), verdict(**many), verdict(**many, groups=np.repeat(np.arange(40), 10))
    first, wrong, second = (result.claims[0].comparisons[0] for result in (alone, careless, grouped))
    assert second.p_value == pytest.approx(first.p_value, rel=1e-6)
    assert (second.low, second.high) == pytest.approx((first.low, first.high), abs=1e-6)
    assert wrong.high - wrong.low < 0.5 * (first.high - first.low)


@pytest.mark.parametrize("score", ["brier", "nll"])
def test_the_score_is_the_named_one(score: str) -> None:
    """The difference shown is that of the named score, computed here by hand."""
    logits, targets = drawn_logits()
    two = [softmax(logits), softmax(3 * logits)]
    by_hand = {
        "nll": [-np.log(p[np.arange(len(targets)), targets]).mean() for p in two],
        "brier": [((p - np.eye(5)[targets]) ** 2).sum(axis=1).mean() for p in two],
    }[score]
    assert verdict(score=score).claims[0].comparisons[0].value == pytest.approx(by_hand[0] - by_hand[1], rel=1e-9)


def test_too_few_test_rows_are_refused() -> None:
    """Nine test rows judge nothing."""
    logits, targets = drawn_logits(9)
    with refusal(BadDataset, "split_too_small", "9 rows"):
        verdict(uploaded=softmax(logits), post_hoc=softmax(logits), targets=targets)


def test_wrong_options_are_refused() -> None:
    """An unknown provenance and a confidence level out of range are ValueErrors."""
    for wrong in ({"provenance": "maybe"}, {"confidence_level": 95}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            verdict(**wrong)


def test_the_other_proper_score_guards_a_promotion() -> None:
    """A finalist that is better in Brier but says 1e-9 where it is wrong, which ruins NLL, is not served."""
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 2, 2000)
    right = np.where(rng.random(2000) < 0.9, targets, 1 - targets)
    uploaded = np.full((2000, 2), 0.45)
    uploaded[np.arange(2000), right] = 0.55
    reckless = np.full((2000, 2), 1e-9)
    reckless[np.arange(2000), right] = 1 - 1e-9
    judgement = judge({"uploaded": uploaded, "post_hoc": uploaded, "trained": reckless}, targets, provenance="no")
    assert judgement.claims[1].significant
    guard = next(g for g in judgement.guards if g.name == "nll_rise" and g.finalist == "trained")
    assert not guard.passed
    assert guard.value > 1
    assert judgement.order == ("post_hoc",)
    assert any("worse in NLL" in sentence for sentence in judgement.sentences)


def test_earlier_looks_make_a_claim_harder() -> None:
    """A gain that the first look proves, the hundredth does not; the level, the interval and a sentence say so."""
    logits, targets = drawn_logits(600)
    settings = {"uploaded": softmax(1.6 * logits[:600]), "post_hoc": softmax(logits), "targets": targets}
    first, late = verdict(**settings), verdict(**settings, evaluations_before=99)
    assert (first.significant, late.significant) == (True, False)
    assert (first.verdict, late.verdict) == ("post_hoc", "post_hoc")
    assert first.level == pytest.approx(0.0375)
    assert late.level == pytest.approx(0.05 / (4 * 100 * 99))
    assert late.looks_before == 99
    one, two = (result.claims[0].comparisons[0] for result in (first, late))
    assert two.low < one.low
    assert one.high < 0 < two.high
    assert any("judged 99 times before" in sentence for sentence in late.sentences)
    assert not any("before, and each look" in sentence for sentence in first.sentences)


def test_retrying_on_one_split_does_not_show_anything() -> None:
    """Ten candidates in a row that are no better: hardly a split shows any of them to be."""
    rng, splits = np.random.default_rng(7), 0
    for draw in range(40):
        logits, targets = drawn_logits(150, 3, seed=draw)
        uploaded = softmax(logits + rng.normal(scale=0.3, size=logits.shape))
        splits += any(
            verdict(
                uploaded=uploaded,
                post_hoc=softmax(logits + rng.normal(scale=0.3, size=logits.shape)),
                targets=targets,
                num_resamples=2,
                evaluations_before=look,
            ).significant
            for look in range(10)
        )
    assert binomtest(splits, 40, 0.05, alternative="greater").pvalue > 0.01


def test_a_claim_that_is_not_shown_says_how_many_rows_would_show_it() -> None:
    """A small gain on few rows asks for more, and twice so many show it; a loss or a shown gain asks for none."""
    logits, targets = drawn_logits(40_000)
    few = {"uploaded": softmax(1.3 * logits[:300]), "post_hoc": softmax(logits[:300]), "targets": targets[:300]}
    claim = (small := verdict(**few)).claims[0]
    assert not claim.significant
    assert (small.verdict, small.serves, small.significant) == ("post_hoc", "calibrated", False)
    assert claim.comparisons[0].value < 0
    assert 300 < (claim.rows_needed or 0) < 20_000
    assert any(f"about {claim.rows_needed:,} test rows" in sentence for sentence in small.sentences)
    many = slice(0, 2 * (claim.rows_needed or 0))
    enough = verdict(uploaded=softmax(1.3 * logits[many]), post_hoc=softmax(logits[many]), targets=targets[many])
    assert enough.claims[0].significant
    assert enough.claims[0].rows_needed is None
    worse = verdict(uploaded=few["post_hoc"], post_hoc=few["uploaded"], targets=few["targets"])
    assert worse.claims[0].rows_needed is None


def test_an_invisible_gain_asks_for_more_than_a_million_rows() -> None:
    """Where the number says nothing, the sentence says only that there are too many."""
    targets = np.array([0] * 601 + [1] * 599)
    before, after = np.full((1200, 2), 0.5), np.full((1200, 2), 0.5)
    after[:, 0], after[:, 1] = 0.5005, 0.4995
    result = verdict(uploaded=before, post_hoc=after, targets=targets)
    assert result.claims[0].comparisons[0].value < 0
    assert result.claims[0].rows_needed == 1_000_001
    assert any("more than 1,000,000 test rows" in sentence for sentence in result.sentences)


@pytest.mark.parametrize("name", ["uploaded", "post_hoc", "trained"])
def test_what_are_no_probabilities_is_refused(name: str) -> None:
    """NaN in one row, and rows that do not sum to 1: the argument and the row are named."""
    logits, _ = drawn_logits()
    good = softmax(logits)
    holed, long = good.copy(), good * 1.1
    holed[7, 2] = np.nan
    for wrong, what in ((holed, "finite, got nan in row 7"), (long, "sum to 1")):
        given = {"uploaded": good, "post_hoc": good, "trained": good, name: wrong}
        with pytest.raises(ValueError, match=f"{name}: .*{what}"):
            verdict(**given)


def test_another_number_of_classes_is_refused() -> None:
    """A finalist must have the uploaded model's rows and classes."""
    logits, _ = drawn_logits(num_classes=6)
    with pytest.raises(ValueError, match="trained must be"):
        verdict(trained=softmax(logits))


def test_a_calibrator_that_keeps_labels_stands_behind_one_that_is_stopped() -> None:
    """A richer calibrator that ruins one class is stopped; the one that keeps every label is served in its place."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 900)
    answer = np.where(rng.random(900) < 0.8, targets, (targets + 1) % 3)
    uploaded = np.full((900, 3), 0.005)
    uploaded[np.arange(900), answer] = 0.99
    cooled = np.full((900, 3), 0.1)
    cooled[np.arange(900), answer] = 0.8
    truth = np.where(targets == 2, np.where(rng.random(900) < 0.5, 0, 2), targets)  # perfect but for class 2
    richer = np.full((900, 3), 0.02)
    richer[np.arange(900), truth] = 0.96
    given = {"uploaded": uploaded, "post_hoc": richer, "same_labels": cooled, "trained": None}
    found = judge(given, targets, provenance="no")
    assert any(guard.finalist == "post_hoc" and not guard.passed for guard in found.guards)
    assert (found.verdict, found.finalist, found.serves) == ("post_hoc", "same_labels", "calibrated")
    assert "the post-hoc calibrator failed the checks. The 900 test rows show a temperature" in found.sentences[0]


def test_a_trained_finalist_must_beat_the_calibrator_that_keeps_labels() -> None:
    """Better than the uploaded model and a post-hoc finalist that overfitted, but worse than a plain calibrator: no."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 2000)
    answer = np.where(rng.random(2000) < 0.7, targets, (targets + 1) % 3)

    def saying(confidence: float) -> np.ndarray:
        probs = np.full((2000, 3), (1 - confidence) / 2)
        probs[np.arange(2000), answer] = confidence
        return probs

    confidences = {"uploaded": 0.99, "post_hoc": 0.95, "same_labels": 0.7, "trained": 0.88}
    probs = {name: saying(confidence) for name, confidence in confidences.items()}
    found = judge(probs, targets, provenance="no")
    uploaded, simpler = (claim for claim in found.claims if claim.finalist == "trained")
    assert [comparison.against for comparison in simpler.comparisons] == ["same_labels", "post_hoc"]
    assert (uploaded.significant, simpler.significant) == (True, False)
    assert found.verdict == "post_hoc"


@pytest.mark.parametrize("tuned", [("trained", "average"), ("trained",)])
def test_one_claim_is_made_for_the_fine_tuned_finalists(tuned: tuple[str, ...]) -> None:
    """The average takes the claim of the trained network, which comes behind it in line, and adds none."""
    logits, targets = drawn_logits(200)
    probs = {"post_hoc": softmax(1.2 * logits), **{name: softmax(logits) for name in tuned}}
    found = verdict(**probs, targets=targets, uploaded=softmax(3 * logits))
    assert [claim.finalist for claim in found.claims] == ["post_hoc", tuned[-1], tuned[-1]]
    assert (found.verdict, found.finalist) == ("trained", tuned[-1])
    assert found.order == (*reversed(tuned), "post_hoc")


def test_a_stopped_average_gives_way_to_the_trained_network() -> None:
    """The verdict is `trained` as for the average, and the network that takes its place has no claim of its own."""
    logits, targets = drawn_logits(400)
    found = verdict(
        uploaded=softmax(3 * logits),
        post_hoc=softmax(1.5 * logits),
        trained=softmax(logits),
        average=np.roll(softmax(logits), 1, axis=1),
        targets=targets,
    )
    assert ("average", "accuracy_drop") in {(veto.finalist, veto.reason) for veto in found.vetoes}
    assert (found.verdict, found.finalist, found.significant) == ("trained", "trained", False)
    assert "do not show the fine-tuned model to be better" in found.sentences[0]
    assert "the one claim for fine-tuned models was made for the average" in found.sentences[0]


def test_test_rows_veto_what_is_shown_to_be_worse() -> None:
    """The first in line, three times too sure on test rows, gives way to the next."""
    logits, targets = drawn_logits()
    found = verdict(uploaded=softmax(1.5 * logits), same_labels=softmax(logits), post_hoc=softmax(3 * logits))
    assert (found.finalist, found.order) == ("same_labels", ("same_labels",))
    worse = next(veto for veto in found.vetoes if veto.reason == "worse")
    by_hand = [-np.log(softmax(scale * logits)[np.arange(len(targets)), targets]).mean() for scale in (3.0, 1.5)]
    assert (worse.finalist, worse.against) == ("post_hoc", "uploaded")
    assert worse.value == pytest.approx(by_hand[0] - by_hand[1])
    assert any("significantly worse than the uploaded model" in sentence for sentence in found.sentences)


def test_vetoes_of_few_groups_rest_on_the_betting_bound() -> None:
    """Twenty rows that are all worse by a little are a veto by the bound; the first three of them are not."""
    targets = np.zeros(20, dtype=np.int64)
    before, after = np.tile([0.6, 0.4], (20, 1)), np.tile([0.5, 0.5], (20, 1))
    many = score_rise(after, before, JudgedRows(targets, np.arange(20)), "nll")
    few = score_rise(after[:3], before[:3], JudgedRows(targets[:3], np.arange(3)), "nll")
    assert many[0] == pytest.approx(np.log(6 / 5)) == few[0]
    assert many[1] < 0.05 < few[1]


def test_a_worse_brier_score_is_a_veto_too() -> None:
    """Answers made timid by wrong calibration labels: a few hopeless rows improve the NLL, all others pay for them."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 1000)
    answer = np.where(rng.random(1000) < 0.95, targets, 1 - targets)
    before, after = np.full((1000, 2), 1e-12), np.full((1000, 2), 0.35)
    before[np.arange(1000), answer], after[np.arange(1000), answer] = 1 - 1e-12, 0.65
    found = judge({"uploaded": before, "post_hoc": after}, targets, provenance="no")
    assert [(veto.reason, veto.against, veto.score) for veto in found.vetoes if veto.reason == "worse"] == [
        ("worse", "uploaded", "brier")
    ]
    assert found.verdict == "unchanged"
    assert any("Brier score +0.1" in sentence for sentence in found.sentences)


def test_a_score_vetoes_at_half_of_the_level() -> None:
    """A rise whose p-value lies between 2.5 and 5 % stops nothing at a confidence of 95 %, and stops at 90 %."""
    logits, targets = drawn_logits(600)
    rows, before, blur = JudgedRows(targets, None), softmax(logits), np.random.default_rng(7).normal(size=logits.shape)

    def p_value(scale: float) -> float:
        after = softmax(logits + scale * blur)
        return min(score_rise(after, before, rows, score)[1] for score in ("nll", "brier"))

    scale = next(scale for scale in np.linspace(0, 2, 2001) if 0.03 < p_value(scale) < 0.045)
    given = {"uploaded": before, "post_hoc": softmax(logits + scale * blur), "targets": targets}
    assert "worse" not in {veto.reason for veto in verdict(**given).vetoes}
    assert "worse" in {veto.reason for veto in verdict(**given, confidence_level=0.9).vetoes}


def claim(finalist: str, *, significant: bool, rows_needed: int | None = None) -> GateClaim:
    """A claim against the uploaded model."""
    return GateClaim(
        finalist=finalist,
        significant=significant,
        p_value=0.01,
        level=0.05,
        comparisons=(against("uploaded", significant=significant),),
        rows_needed=rows_needed,
    )


def against(name: str, *, significant: bool) -> ScoreDifference:
    """A difference whose test shows it at the level of 0.05, or not."""
    return ScoreDifference(against=name, value=-0.02, low=-0.03, high=-0.01, p_value=0.01 if significant else 0.2)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (
            (claim("post_hoc", significant=True),),
            "The 500 test rows show the post-hoc calibrator to be better than the uploaded model (Brier score).",
        ),
        (
            (claim("same_labels", significant=True), claim("post_hoc", significant=False, rows_needed=1800)),
            "The 500 test rows do not show the post-hoc calibrator to be better than the uploaded model (Brier score); "
            "if it is truly better by as much as they say, about 1,800 test rows would show it with 80 % power.",
        ),
        (
            (claim("post_hoc", significant=False),),
            "The 500 test rows do not show the post-hoc calibrator to be better than the uploaded model (Brier score), "
            "nor to be worse.",
        ),
    ],
)
def test_what_is_shown_of_the_served_finalist_comes_first(claims: tuple[GateClaim, ...], said: str) -> None:
    """The rows that are needed are those of the served finalist, whatever the others show."""
    verdict = CALIBRATOR.changed(claims=claims, order=("post_hoc", "same_labels"))
    assert sentences_of(verdict, 500)[0] == said


def test_what_is_beaten_and_what_is_not_are_both_named() -> None:
    """A claim that lacks one of its comparisons says which, so that nobody takes a large gain for none."""
    comparisons = (against("same_labels", significant=True), against("post_hoc", significant=False))
    open_ = claim("trained", significant=False, rows_needed=900).changed(comparisons=comparisons, p_value=0.2)
    claims = (claim("trained", significant=True), open_)
    verdict = CALIBRATOR.changed(verdict="trained", claims=claims, finalist="trained", order=("trained",))
    assert (verdict.significant, verdict.beats_simpler) == (True, False)
    assert (
        "The 500 test rows show the fine-tuned model to be better than the uploaded model (Brier score). They do not "
        "show it to be better than the post-hoc calibrator; if" in sentences_of(verdict, 500)[0]
    )


def test_figures_stand_in_the_verdict_alone() -> None:
    """No p-value and no interval is in a sentence, whatever claims, guards, vetoes and evaluations there are."""
    guards = (
        GateGuard(name="accuracy_drop", finalist="trained", passed=False, value=0.03, limit=0.005, low=0.01, high=0.05),
        GateGuard(name="nll_rise", finalist="average", passed=False, value=0.006, limit=0.0, low=0.002, high=0.02),
        GateGuard(
            name="class_share_error",
            finalist="post_hoc",
            passed=True,
            value=1.43,
            limit=1.3,
            class_index=1,
            chance=0.05,
        ),
    )
    verdict = CALIBRATOR.changed(claims=(claim("post_hoc", significant=True),), guards=guards, looks_before=30)
    _, *rest = sentences_of(verdict, 500, ["a", "b"])
    assert rest[:3] == [
        "The fine-tuned model is not served: it loses accuracy by more than the allowed 0.005.",
        "The average with the fine-tuned model is not served: it is significantly worse in NLL.",
        "The post-hoc calibrator gets the share of one class wrong (class “b”) by more than a factor of 1.3, but "
        "chance explains it.",
    ]
    assert "judged 30 times before" in rest[-1]
    assert not [sentence for sentence in rest if "p =" in sentence or "p <" in sentence or "interval" in sentence]


def test_what_gave_way_is_named() -> None:
    """A vetoed finalist has a sentence, and is named first only if it would have been served."""
    veto = GateVeto(finalist="post_hoc", reason="worse", value=0.05, against="uploaded", p_value=0.002)
    claims = (claim("same_labels", significant=True), claim("post_hoc", significant=False))
    of = {"order": ("same_labels",), "vetoes": (veto,), "finalist": "same_labels"}
    verdict = GateVerdict(verdict="post_hoc", score="nll", claims=claims, guards=(), sentences=(), **of)
    first, *rest = sentences_of(verdict, 500)
    assert first.startswith("On the test rows the post-hoc calibrator failed the checks. The 500 test rows show a temp")
    worse = "it is significantly worse than the uploaded model (NLL +0.0500)."
    assert f"The post-hoc calibrator is not served: {worse}" in rest
    first, *_ = sentences_of(verdict.changed(finalist="average", order=("average", "same_labels")), 500)
    assert "failed the checks" not in first


def test_nothing_served_says_why() -> None:
    """Where everything is stopped the test rows are the reason."""
    veto = GateVeto(finalist="post_hoc", reason="worse", value=0.1, against="uploaded", p_value=0.01)
    stopped = UNCHANGED.changed(vetoes=(veto,))
    assert "no calibrated version of it passed the checks" in sentences_of(stopped, 500)[0]


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
