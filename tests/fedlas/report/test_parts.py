"""Sections of the report: the gain of each part, the recipe in words, decisions and confident answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.contract.report import GateClaim
from fedlas.contract.sections import AddedPart, AddedParts
from fedlas.deployment import ClassPriors, Deployment
from fedlas.gate.guards import JudgedRows
from fedlas.guarantees import Guarantees
from fedlas.report.deployment import decision_sentence, decision_table, priors_section, priors_sentence
from fedlas.report.number_words import as_sentence
from fedlas.report.parts import OutOfFold, added_parts, loss_comparison
from fedlas.report.recipe import recipe_sentences
from fedlas.report.sections import confident_section, confident_sentence
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import CALIBRATOR, UNCHANGED, is_whole, report

SCALES = {"uploaded": 3.0, "temperature": 1.2, "post_hoc": 1.1, "trained": 1.0, "average": 1.0}


def nll(num_rows: int, seed: int, names: list[str]) -> dict[str, np.ndarray]:
    logits, targets = drawn_logits(num_rows, seed=seed)
    return {name: metrics.row_scores(softmax(SCALES[name] * logits), targets, score="nll") for name in names}


def found(fitted: list[str], judged: list[str], **settings: object) -> tuple[AddedParts, dict[str, AddedPart]]:
    """The parts of these out-of-fold and test scores."""
    logits, targets = drawn_logits(300, seed=2)
    parts = added_parts(
        OutOfFold(nll(500, 1, fitted)),
        {name: softmax(SCALES[name] * logits) for name in judged},
        JudgedRows(targets, None),
        served="trained",
        **settings,  # type: ignore[arg-type]
    )
    return parts, {part.name: part for part in parts.rows}


def test_each_part_is_compared_with_the_one_before_it() -> None:
    """Values are the means of the scores, changes the paired differences, and the served one is marked."""
    parts, by_name = found(list(SCALES), list(SCALES))
    assert list(by_name) == list(SCALES)
    assert [name for name, part in by_name.items() if part.served] == ["trained"]
    assert parts.num_calibration_rows == 500
    rows, part = nll(500, 1, list(SCALES)), by_name["temperature"]
    assert part.out_of_fold_nll is not None
    assert part.out_of_fold_nll.value == pytest.approx(rows["temperature"].mean())
    change = part.out_of_fold_nll.change
    assert change is not None
    assert change.value == pytest.approx((rows["temperature"] - rows["uploaded"]).mean())
    assert change.low < change.value < change.high < 0
    logits, targets = drawn_logits(300, seed=2)
    assert part.test_brier is not None
    assert part.test_brier.value == pytest.approx(metrics.brier(softmax(1.2 * logits), targets))
    assert by_name["uploaded"].out_of_fold_nll.change is None  # type: ignore[union-attr]
    same = by_name["average"].test_nll.change  # type: ignore[union-attr]
    assert vars(same) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_part_that_was_not_judged_has_no_test_score() -> None:
    """A refit that never became a finalist is compared out of fold, and on test rows nothing is compared with it."""
    _, by_name = found(list(SCALES), ["uploaded", "temperature", "post_hoc", "average"])
    assert by_name["trained"].test_nll is None
    assert by_name["trained"].out_of_fold_nll.change is not None  # type: ignore[union-attr]
    assert by_name["average"].test_nll.change is None  # type: ignore[union-attr]


def test_the_sentence_names_what_was_tried() -> None:
    """A sentence says what the interval of a change proves, without figures; nothing where there is nothing before."""
    parts, by_name = found(["uploaded", "temperature"], ["uploaded", "temperature"], confidence_level=0.9)
    change = by_name["temperature"].out_of_fold_nll.change  # type: ignore[union-attr]
    assert change is not None
    assert change.high < 0
    assert parts.sentence == "On held-out calibration rows the NLL falls with a temperature."
    assert found(["uploaded"], ["uploaded"])[0].sentence == ""


def test_groups_and_weights_of_calibration_rows_count() -> None:
    """Rows sent twice as groups keep the interval, and rows of weight 0 do not matter."""
    rows = nll(200, 3, ["uploaded", "temperature"])
    logits, targets = drawn_logits(50)
    probs = {"uploaded": softmax(logits)}

    def change(out_of_fold: OutOfFold) -> dict[str, float]:
        part = added_parts(out_of_fold, probs, JudgedRows(targets, None), served=None).rows[1].out_of_fold_nll
        assert part is not None
        return vars(part.change)

    twice = {name: np.repeat(values, 2) for name, values in rows.items()}
    half = {name: values[:100] for name, values in rows.items()}
    assert change(OutOfFold(twice, groups=np.repeat(np.arange(200), 2))) == pytest.approx(change(OutOfFold(rows)))
    weighed = change(OutOfFold(rows, weights=np.repeat([1.0, 0.0], 100)))
    assert weighed["value"] == pytest.approx(change(OutOfFold(half))["value"])


def rows(mean: float, *, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """NLL of 400 rows about this mean."""
    return mean + spread * np.random.default_rng(seed).normal(size=400)


@pytest.mark.parametrize(("rival", "finding"), [(0.6, "better"), (0.5, "no_difference_shown"), (0.4, "worse")])
def test_the_finding_is_that_of_the_interval(rival: float, finding: str) -> None:
    """Better or worse where the interval excludes 0; the difference and the counts are those of the rows."""
    ours, theirs = rows(0.5), rows(rival, seed=1)
    found = loss_comparison(OutOfFold({}, {"fedlas": ours, "cross_entropy": theirs}))
    assert found is not None
    (difference,) = found.differences
    assert (difference.finding, difference.against) == (finding, "cross_entropy")
    assert difference.nll.value == pytest.approx((ours - theirs).mean())
    assert (difference.rows_better, difference.rows_worse) == ((ours < theirs).sum(), (ours > theirs).sum())
    said = {"no_difference_shown": "not clearly different from"}.get(finding, f"{finding} than")
    assert f"the best FedLAS candidate is {said} the best with cross-entropy" in found.sentence
    assert found.sentence.endswith("No candidate with label smoothing was trained.")


def test_the_better_of_its_two_losses_speaks() -> None:
    """FedLAS+ with the lower NLL is compared with both rivals, in their order."""
    found = loss_comparison(
        OutOfFold(
            {},
            {
                "cross_entropy": rows(0.6),
                "fedlas": rows(0.55),
                "label_smoothing": rows(0.5),
                "fedlas_plus": rows(0.5),
                "focal": rows(0.1),
            },
        )
    )
    assert found is not None
    assert (found.method, found.num_rows) == ("fedlas_plus", 400)
    expected = [("label_smoothing", "no_difference_shown"), ("cross_entropy", "better")]
    assert [(one.against, one.finding) for one in found.differences] == expected
    assert found.differences[0].nll.value == found.differences[0].rows_better == 0


def test_what_is_unknown_is_said() -> None:
    """Without a rival or without FedLAS nothing is compared; without any training there is no section."""
    alone = loss_comparison(OutOfFold({}, {"fedlas": rows(0.5)}))
    absent = loss_comparison(OutOfFold({}, {"cross_entropy": rows(0.5)}))
    assert alone is not None
    assert absent is not None
    assert (alone.method, alone.differences, absent.method) == ("fedlas", (), None)
    assert "no candidate with label smoothing or cross-entropy was trained" in alone.sentence
    assert "No candidate was trained with FedLAS" in absent.sentence
    assert loss_comparison(OutOfFold({"uploaded": rows(0.5)})) is None
    assert loss_comparison(None) is None


Json = dict[str, Any]
POOL = {
    "name": "pool",
    "parameters": {
        "members": [{"name": "temperature", "parameters": {}}, {"name": "structured_matrix", "parameters": {}}],
        "weights": [0.25, 0.75],
    },
}
FIXED = {"epochs": 4, "alpha": "auto"}
REQUEST = {"method": "auto", "hyperparameters": FIXED, "budget": {"minutes": 10, "candidates": 4}}
ROWS = {"train": 400, "calibration": 500}


def words(recipe: Json, trained_rows: dict[str, int] | None = None) -> str:
    return " ".join(recipe_sentences(recipe, seed=7, trained_rows=trained_rows, num_test_rows=800))


def test_a_fine_tuned_network_is_told_whole() -> None:
    """Order, loss with its settings, optimiser, rows, calibrator, seed and judge, in this order."""
    settings = {
        "alpha": 0.1,
        "momentum": 0.95,
        "optimizer": "adamw",
        "learning_rate": 0.0123,
        "weight_decay": 0.02,
        "batch_size": 16,
        "epochs": 4,
    }
    winner = {"name": "fedlas", "method": "fedlas", "scope": "head", "hyperparameters": settings}
    made = {"request": REQUEST, "winner": winner, "calibrator": POOL, "calibrated_on": {"train": 0, "calibration": 500}}
    assert words(made, ROWS) == (
        "Requested was the method “auto” within 10 minutes and 4 candidates, with 4 epochs fixed. "
        "Only the last layers were trained further from the upload's weights with FedLAS (α = 0.1, momentum 0.95): "
        "AdamW, learning rate 0.0123, weight decay 0.02, batches of 16, 4 epochs, on 400 train and 500 calibration "
        "rows. "
        "Its scores pass through a weighted pool of calibrators (structured matrix 75 %, temperature 25 %), fitted on "
        "500 calibration rows. "
        "All random choices (folds, batches, resamples) use seed 7. 800 test rows judged."
    )


def test_an_average_names_its_members() -> None:
    """An average has its members with their weights, and with what trained those that were trained."""
    settings = {"members": ["uploaded + pool", "cross_entropy lr=0.1"], "weights": [0.4, 0.6]}
    winner = {"name": "average", "method": "average", "scope": "all", "hyperparameters": settings}
    told = words({"winner": winner, "calibrator": {"name": "identity", "parameters": {}}}, ROWS)
    members = "uploaded + pool (40 %) and cross-entropy lr=0.1 (60 %)"
    assert f"2 networks, each with its own calibrator: {members}" in told
    assert "on 400 train and 500 calibration rows" in told
    assert "pass through" not in told


def test_what_was_not_done_is_not_told() -> None:
    """The upload as it came has neither training nor calibrator; of scores there is no network to speak of."""
    assert words({"winner": None, "calibrator": {"name": "identity", "parameters": {}}}).startswith(
        "The uploaded model is served unchanged. All random choices"
    )
    scores = {
        "methods": {"asked": "auto", "tried": ["temperature", "isotonic"], "fitted": "isotonic"},
        "calibrator": {"name": "isotonic", "parameters": {}},
    }
    assert words(scores).startswith(
        "Tried: a temperature and isotonic regression. Its scores pass through isotonic regression. All random "
    )
    mixed = {"name": "mixture", "parameters": {"temperature": 1.0521, "share": 0.0123, "num_classes": 3}}
    assert "a temperature with a uniform mix (T = 1.05, mix 1.2 %)." in words({"calibrator": mixed})
    assert words({}).startswith("All random choices")


NAMES = ["fine", "fraud"]
ODDS = ClassPriors(np.array([0.9, 0.1]), np.array([0.998, 0.002]))


def test_answers_are_counted_with_and_without_thresholds() -> None:
    """A model that says 30 % and less never answers the rare class; a threshold of 0.25 does where it says 30 %."""
    targets = np.repeat([0, 1], [90, 10])
    rare = np.where(np.arange(100) >= 85, 0.3, 0.02)  # five rows of the other class, too
    calibrated = np.stack([1 - rare, rare], axis=1)
    uploaded = calibrated[:, ::-1].copy()
    uploaded[:85] = calibrated[:85]
    deployment = Deployment(ODDS, np.array([0.75, 0.25]))
    table = decision_table(deployment, uploaded, calibrated, JudgedRows(targets, None), NAMES, 0.95)
    assert table is not None
    first, second = table.rows
    assert (first.name, first.num_rows, first.threshold, second.name) == ("fraud", 10, 0.25, "fine")
    shares = [part.answered for part in (first.uploaded, first.argmax, first.thresholds)]
    recalls = [part.recall and part.recall.value for part in (first.uploaded, first.argmax, first.thresholds)]
    assert (shares, recalls) == ([0.15, 0.0, 0.15], [1.0, 0.0, 1.0])
    assert table.accuracy == pytest.approx(0.95)
    sentence = decision_sentence(table, 100)
    assert sentence is not None
    assert "“fraud” in 0 % of the test rows (recall 0 %), the uploaded one in 15 % (recall 100 %)" in sentence
    same = decision_table(deployment, calibrated, calibrated, JudgedRows(targets, None), NAMES, 0.95)
    assert decision_sentence(same, 100) is None


def test_other_priors_are_told() -> None:
    """The class whose odds change most is named; where nothing is shifted there is no sentence."""
    sentence = priors_sentence(priors_section(Deployment(ODDS, np.array([0.5, 0.5])), NAMES))
    assert sentence is not None
    assert "“fraud” 0.2 %, which 10 % of the calibration rows are" in sentence
    plain = priors_section(Deployment(ClassPriors(ODDS.shares, ODDS.shares), np.array([0.5, 0.5])), NAMES)
    assert priors_sentence(plain) is priors_sentence(None) is None


def test_promises_stand_beside_what_was_found() -> None:
    """Threshold and shares are those of the guarantees applied to the test rows; impossible promises are named."""
    logits, labels = drawn_logits(3000, 4, seed=5)
    probs = softmax(logits)
    fitted = Guarantees.fit(probs[:2000], labels[:2000], class_names=list("abcd"))
    made = report(probs[2000:], labels[2000:], guarantees=fitted)
    row = next(row for row in made.as_dict()["guarantees"]["max_error"] if row["level"] == 0.2)
    kept = probs[2000:].max(axis=1).astype(np.float32) >= fitted.threshold_for(0.2)
    wrong = probs[2000:].argmax(axis=1) != labels[2000:]
    assert row["threshold"] == fitted.threshold_for(0.2)
    assert row["answered"] == pytest.approx(kept.mean())
    assert row["error_rate"]["value"] == pytest.approx(wrong[kept].mean())
    sets = fitted.prediction_sets(probs[2000:], 0.9)
    covered = next(row for row in made.as_dict()["guarantees"]["coverage"] if row["level"] == 0.9)
    assert covered["mean_size"] == pytest.approx(sets.sum(axis=1).mean())
    assert covered["covered"]["value"] == pytest.approx(sets[np.arange(1000), labels[2000:]].mean())
    right = Guarantees.fit(probs[:2000], probs[:2000].argmax(axis=1), class_names=list("abcd"))
    served, other = (report(probs[2000:], labels[2000:], guarantees=right, gate=g) for g in (CALIBRATOR, UNCHANGED))
    assert served.promise is not None
    assert (other.promise, served.promise.threshold) == (None, right.threshold_for(0.05))  # what is served promises
    assert served.summary[2] == served.promise.sentence
    page = is_whole(served)
    assert page.index(served.promise.sentence) < page.index(as_sentence(served.advice[1].removeprefix("Next: ")))
    few = Guarantees.fit(probs[:50], labels[:50], class_names=list("abcd"))
    assert "cannot be promised" in is_whole(report(probs[2000:], labels[2000:], guarantees=few))


def answers(confidence: float, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers to 200 rows, half with each of two classes; so many of those with class 1 are wrong."""
    answered = np.repeat([0, 1], 100)
    probs = np.full((200, 2), 1 - confidence)
    probs[np.arange(200), answered] = confidence
    targets = answered.copy()
    targets[100 : 100 + wrong] = 0
    return probs, targets


def test_a_class_that_is_too_sure_is_named() -> None:
    """A class right on 60 of 100 answers that are 90 % sure is too sure by 30 points, and all together by 10."""
    probs, targets = answers(0.9, 40)
    section = confident_section(probs, JudgedRows(targets, None), ["early", "late"])
    assert (section.num_rows, section.accuracy, section.hold, section.worst_class) == (200, 0.8, False, "late")
    assert (section.mean_confidence, section.excess) == (pytest.approx(0.9), pytest.approx(0.3))
    assert "“late” are too sure by 30.0 points" in (confident_sentence(section, 200) or "")


def test_true_answers_hold_and_none_are_not_mentioned() -> None:
    """Answers that are right as often as they say hold; where none is confident there is nothing to say."""
    probs, targets = answers(0.9, 10)
    section = confident_section(probs, JudgedRows(targets, None), ["early", "late"])
    assert (section.hold, section.worst_class, section.excess) == (True, None, None)
    assert (confident_sentence(section, 200) or "").endswith("and 95.0 % of them are right.")
    timid = confident_section(0.5 + 0.4 * (probs - 0.5), JudgedRows(targets, None), ["early", "late"])
    assert (timid.num_rows, timid.accuracy, timid.hold) == (0, None, True)
    assert confident_sentence(timid, 200) is None


@pytest.mark.parametrize(
    ("significant", "wrong", "colour", "title"),
    [
        (True, 14, "good", "Calibrator served, significantly better than the upload"),
        (False, 14, "open", "Calibrator served"),
        (True, 40, "open", "Calibrator served, significantly better than the upload; 10.0 points too sure"),
    ],
)
def test_green_is_for_what_is_shown_and_true(significant: bool, wrong: int, colour: str, title: str) -> None:
    """The page is green where the served model is shown to be better and its confident answers hold, else amber."""
    claim = GateClaim(finalist="post_hoc", significant=significant, p_value=0.01, level=0.05, comparisons=())
    gate = CALIBRATOR.changed(claims=(claim,))
    assert f'<span class="badge {colour}">{title}</span>' in is_whole(report(*answers(0.9, wrong), gate=gate))
