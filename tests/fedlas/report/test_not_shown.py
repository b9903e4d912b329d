"""What was not shown is said: open claims with their range, and that figures hold for such rows alone."""

from __future__ import annotations

from fedlas.calibrators import softmax
from fedlas.gate.gate import judge
from fedlas.report.not_shown import not_shown
from fedlas.report.wording import signed
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import example, is_whole, report


def test_an_open_claim_is_told_with_its_range() -> None:
    """A gain too small for so few rows is not shown, and between which bounds it lies is said."""
    logits, targets = drawn_logits(200, 3)
    probs, better = softmax(1.1 * logits), softmax(logits)
    gate = judge(uploaded=probs, post_hoc=better, trained=None, targets=targets, provenance="no")
    made = report(probs, targets, gate=gate, calibrated=better)
    one = gate.claims[0].comparisons[0]
    assert one.p_value > gate.claims[0].level
    told = next(text for text in not_shown(made) if "beats the uploaded model" in text)
    assert f"{signed(one.low)} and {signed(one.high)}" in told
    assert "What was not shown" in is_whole(made)


def test_other_rows_are_always_left_open() -> None:
    """The last sentence of every report is about rows of another kind."""
    assert "rows of another kind" in not_shown(example()[0])[-1]
