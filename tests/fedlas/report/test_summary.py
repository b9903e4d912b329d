"""Advice that opens a report, a sentence and a next step; open claims with their range, for such rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas.calibrators import softmax
from fedlas.contract.profiles import Notice
from fedlas.contract.report import GateClaim, GateVeto, Report, ScoreDifference
from fedlas.gate.gate import MAX_ROWS_NEEDED, judge
from fedlas.guarantees import Guarantees
from fedlas.metrics.calibration_error import top_label
from fedlas.report import SplitAccuracy
from fedlas.report.number_words import signed
from fedlas.report.parts import OutOfFold
from fedlas.report.summary import (
    headline,
    not_shown,
    promise_sentence,
    served_sentence,
    trust_sentence,
    verdict_sentence,
)
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import CALIBRATOR, UNCHANGED, example, is_whole, report

LOGITS, TARGETS = drawn_logits(20_000, 3, seed=5)


VETO = GateVeto(finalist="post_hoc", reason="worse", value=0.02, against="uploaded", p_value=0.01, score="brier")


def served(rows: int, *, scale: float = 1.0, needed: int | None = None, proven: bool = False, **changes: Any) -> Report:
    """A calibrator is served, whose logits are so many times the true ones, and which is not proven to be better."""
    p = 0.001 if proven else 0.4
    compared = (ScoreDifference(against="uploaded", value=-0.01, low=-0.03, high=0.01, p_value=p),)
    claim = GateClaim(
        finalist="post_hoc", significant=proven, p_value=p, level=0.05, comparisons=compared, rows_needed=needed
    )
    gate = CALIBRATOR.changed(claims=(claim,))
    given = {"calibrated": softmax(scale * LOGITS[:rows]), "gate": gate, **changes}
    return report(softmax(2 * LOGITS[:rows]), TARGETS[:rows], num_resamples=20, **given)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: served(20_000, scale=1.5), "Next: calibrate again with more calibration rows"),
        (lambda: served(300, needed=900), "Next: judge on more rows. About 900 test rows, 300 now, would decide"),
        (lambda: served(300), "Next: four times as many calibration and test rows would halve the ±"),
        (
            lambda: served(20_000, proven=True),
            "Nothing more to do. For fewer errors, leave the 20 % of rows below 0.",
        ),
        (lambda: served(20_000), "no gain is proven: on these test rows the uploaded model is no worse. For"),
        (lambda: served(20_000, needed=MAX_ROWS_NEEDED + 1), "it is so small that more than 1,000,000 test rows"),
        (
            lambda: served(20_000, gate=CALIBRATOR.changed(verdict="trained", finalist="trained")),
            "no gain is proven: the average was judged in the place of this model",
        ),
        (
            lambda: report(softmax(LOGITS), TARGETS, num_resamples=20),
            "no gain is proven: the uploaded model is served as it is",
        ),
        (
            lambda: served(300, warnings=[Notice(code="x", message="labels are odd")]),
            "check this warning. Labels are odd.",
        ),
        (lambda: served(300, gate=UNCHANGED.changed(verdict="undetermined")), "Next: upload the dataset again"),
    ],
)
def test_there_is_one_next_step(made: Any, words: str) -> None:
    """The next step is the worst fault, then the rows that would decide; with many rows nothing is left to do."""
    found = made()
    assert words in found.advice[1]
    assert len(found.advice) == 2
    assert found.summary[:2] == found.advice


@pytest.mark.parametrize(("method", "words"), [("temperature", "use method=auto"), ("auto", "check the labels of the")])
def test_where_everything_is_stopped_there_is_something_to_take(method: str, words: str) -> None:
    """A method that was named and vetoed points at `auto`, which then has the rows to look at."""
    gate = UNCHANGED.changed(vetoes=(VETO,))
    found = served(20_000, gate=gate, recipe={"request": {"method": method}})
    assert words in found.advice[1]
    assert "the uploaded model as it is" in found.advice[0]


def test_splits_that_differ_come_before_another_method() -> None:
    """Where the upload is right more often on the test rows by far, their labels are looked at first."""
    gate = UNCHANGED.changed(vetoes=(VETO,))
    accuracy = SplitAccuracy.of(np.arange(1000) < 400)
    found = served(2000, gate=gate, recipe={"request": {"method": "temperature"}}, calibration_accuracy=accuracy)
    assert "Check whether labels of calibration rows are wrong" in found.advice[1]


def test_few_calibration_rows_are_what_is_missing() -> None:
    """Fitted on 50 rows and judged on 2,000 the chance is that of the 50; fitted on as many it is that of both."""
    right = (LOGITS[:2000].argmax(axis=1) == TARGETS[:2000]).astype(float)
    few, many = (SplitAccuracy.of(right[:count]) for count in (50, 2000))
    assert "four times as many calibration rows" in served(2000, calibration_accuracy=few).advice[1]
    assert "calibration rows" not in served(2000, calibration_accuracy=many).advice[1].replace("calibration and", "")


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_first_screen_does_not_contradict_itself(scale: float) -> None:
    """Up to the section of the models a page says what is served and how often it is right, and orders nothing."""
    page = is_whole(served(2000, scale=scale, needed=9000))
    first = page[page.index("<h1>") : page.index('<section id="models">')]
    for words in ("Serve the", "not prove", "not shown", "iscalibrated"):
        assert words not in first
    assert first.count("is right on") == 1
    assert ("points too sure, more than the ±" in first) is (scale > 1)


@pytest.mark.parametrize(
    ("made", "verdict", "promise", "trust"),
    [
        (
            lambda: served(300),
            "but 300 test rows do not decide whether",
            "needs guarantee rows",
            "but the rows are few: on average the served model",
        ),
        (
            lambda: served(20_000),
            "but 20,000 test rows do not decide whether",
            "None: ",
            "Trust them on rows like the test rows",
        ),
        (
            lambda: served(20_000, scale=1.5),
            "the uploaded model with the post-hoc",
            "None: ",
            "Do not trust them",
        ),
        (
            lambda: served(2000, gate=UNCHANGED.changed(vetoes=(VETO,))),
            "The uploaded model stays as it is.",
            "thresholds are made for calibrated models only",
            "Do not trust them as they are: on average the served model says",
        ),
        (
            lambda: served(300, gate=UNCHANGED.changed(verdict="undetermined")),
            "Nothing is decided",
            "None: the uploaded model is served unchanged",
            "Unknown: the model says",
        ),
    ],
)
def test_a_stranger_is_answered(made: Any, verdict: str, promise: str, trust: str) -> None:
    """The page says what is served, how sure its gain is, what may be promised, and what its confidences are worth."""
    found = made()
    assert verdict in verdict_sentence(found)
    assert promise in promise_sentence(found)
    assert trust in trust_sentence(found)


def test_a_promise_that_cannot_be_kept_says_what_can() -> None:
    """Few guarantee rows allow no 5 %: the least that they allow is named; one that they allow is the promise."""
    probs = softmax(LOGITS)
    few, many = (
        served(2000, guarantees=Guarantees.fit(probs[-rows:], labels[-rows:], class_names=list("abc")))
        for rows, labels in ((60, TARGETS), (5000, probs.argmax(axis=1)))
    )
    assert few.guarantees is not None
    least = next(row.reachable for row in few.guarantees.max_error if row.level == 0.05)
    assert least is not None
    assert (
        f"60 guarantee rows are too few; the lowest share that they allow is {100 * least:.1f} %."
        in promise_sentence(few)
    )
    assert many.promise is not None
    assert promise_sentence(many) == many.promise.sentence
    assert promise_sentence(many.changed(promise=None)).startswith("Answers with a confidence of")


def test_the_error_has_the_chance_of_the_calibration_rows() -> None:
    """√(v/n + v/m) of what was fitted, √(v/n) of the upload; out of fold the calibration rows alone count."""
    fitted, right = np.arange(1000), TARGETS[:1000]
    labels = {name: top_label(softmax(k * LOGITS[fitted]), right) for name, k in (("uploaded", 2.0), ("post_hoc", 1.0))}
    nll = {name: np.zeros(1000) for name in labels}
    accuracy = SplitAccuracy.of(labels["uploaded"][1], groups=fitted // 10)
    out_of_fold = OutOfFold(nll, top_labels=labels)
    made = served(2000, calibration_accuracy=accuracy, out_of_fold=out_of_fold, seen_by_model="no")
    alone = served(2000).confidence_gap
    for name, factor in (("uploaded", 1.0), ("calibrated", np.sqrt(1 + 2000 / 100))):
        assert made.confidence_gap[name].test.standard_error == pytest.approx(factor * alone[name].test.standard_error)
    outside = made.confidence_gap["calibrated"].out_of_fold
    assert outside is not None
    assert (outside.num_rows, outside.accuracy) == (1000, pytest.approx(labels["post_hoc"][1].mean()))
    assert made.confidence_gap["temperature"].out_of_fold == made.confidence_gap["uploaded"].out_of_fold
    assert "Out of fold it says" in is_whole(made)
    assert (
        served(2000, out_of_fold=OutOfFold(nll, top_labels=labels), seen_by_model="unknown")
        .confidence_gap["calibrated"]
        .out_of_fold
        is None
    )


def test_what_is_proven_of_the_upload_alone_is_said() -> None:
    """The title names what is beaten, and nothing that is not; what nothing is decided about claims no chance."""
    assert headline(served(300, proven=True)) == "Calibrator served, significantly better than the upload"
    first = served(300, proven=True).gate.claims[0].changed(finalist="trained")
    for beats, words in ((True, "It is better than every"), (False, "Whether it is better than every")):
        gate = CALIBRATOR.changed(finalist="trained", claims=(first, first.changed(significant=beats)))
        assert f"lower is better). {words} simpler calibrator, too" in verdict_sentence(served(300, gate=gate))
    assert headline(served(300)) == "Calibrator served"
    assert "Calibrator served; " in headline(served(20_000, scale=1.5))
    assert headline(served(20_000, scale=1.5)).endswith("points too sure")
    open_ = served_sentence(served(300, gate=UNCHANGED.changed(verdict="undetermined")))
    assert "may have been trained on" in open_
    assert "chance" not in open_


def test_an_open_claim_is_told_with_its_range() -> None:
    """A gain too small for so few rows is not shown, and the sentence has its bounds."""
    logits, targets = drawn_logits(200, 3)
    probs, better = softmax(1.1 * logits), softmax(logits)
    gate = judge({"uploaded": probs, "post_hoc": better}, targets, provenance="no")
    made = report(probs, targets, gate=gate, calibrated=better)
    one = gate.claims[0].comparisons[0]
    assert one.p_value > gate.claims[0].level
    told = next(text for text in not_shown(made) if "beats the uploaded model" in text)
    assert f"{signed(one.low)} and {signed(one.high)}" in told
    assert "What remains open" in is_whole(made)


def test_other_rows_are_always_left_open() -> None:
    """The last sentence of every report is about rows of another kind."""
    assert "rows of another kind" in not_shown(example()[0])[-1]
