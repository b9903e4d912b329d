"""The sentences of a verdict: what is served, whether it is shown, and what gave way."""

from __future__ import annotations

import pytest

from fedlas.gate.claims import Claim, Comparison, GateVerdict
from fedlas.gate.sentences import sentences_of
from fedlas.gate.vetoes import Veto


def claim(finalist: str, *, shown: bool, rows_needed: int | None = None) -> Claim:
    """A claim against the uploaded model."""
    return Claim(finalist, shown, 0.01, 0.05, (Comparison("uploaded", -0.02, -0.03, -0.01, 0.01),), rows_needed)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ((claim("post_hoc", shown=True),), "The 500 test rows show it to be better (Brier score)."),
        (
            (claim("same_labels", shown=True), claim("post_hoc", shown=False, rows_needed=1800)),
            "The 500 test rows do not show it to be better (Brier score); if it is truly better by as much as they "
            "say, about 1,800 test rows would show it with 80 % power.",
        ),
        (
            (claim("post_hoc", shown=False),),
            "The 500 test rows do not show it to be better (Brier score), nor to be worse.",
        ),
    ],
)
def test_what_is_served_comes_first_then_what_is_shown_of_it(claims: tuple[Claim, ...], said: str) -> None:
    """The rows that are needed are those of the served finalist, whatever the others show."""
    verdict = GateVerdict("post_hoc", "brier", claims, (), (), finalist="post_hoc", order=("post_hoc", "same_labels"))
    first = sentences_of(verdict, 500)[0]
    assert first == (
        f"Served is the uploaded model with the best post-hoc calibrator: the calibration rows prefer it. {said}"
    )


def test_what_gave_way_is_named() -> None:
    """A vetoed finalist has a sentence, and what is served is preferred among the rest."""
    veto = Veto("post_hoc", "worse", 0.05, "uploaded", 0.002)
    claims = (claim("same_labels", shown=True), claim("post_hoc", shown=False))
    verdict = GateVerdict(
        "post_hoc", "nll", claims, (), (), order=("same_labels",), vetoes=(veto,), finalist="same_labels"
    )
    first, *rest = sentences_of(verdict, 500)
    assert "of what the test rows do not speak against, the calibration rows prefer it" in first
    assert (
        "The best post-hoc calibrator is shown to be worse than the uploaded model: NLL +0.0500 (p = 0.0020), "
        "so it is not served."
    ) in rest


def test_nothing_served_says_why() -> None:
    """Without a gain on calibration rows the reason is there, with vetoes it is the test rows."""
    nothing = GateVerdict("unchanged", "brier", (), (), ())
    stopped = GateVerdict("unchanged", "brier", (), (), (), vetoes=(Veto("post_hoc", "worse", 0.1, "uploaded", 0.01),))
    assert "nothing was clearly better" in sentences_of(nothing, 500)[0]
    assert "the test rows speak against everything" in sentences_of(stopped, 500)[0]
