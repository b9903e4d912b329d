"""The sentences of a verdict: what is served, whether it is significant, and what gave way."""

from __future__ import annotations

import pytest

from fedlas.contract.report import GateClaim, GateGuard, GateVerdict, GateVeto, ScoreDifference
from fedlas.gate.gate import sentences_of
from tests.helpers.reports import CALIBRATOR, UNCHANGED


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
    comparisons = (against("uploaded", significant=True), against("post_hoc", significant=False))
    open_ = claim("trained", significant=False, rows_needed=900).changed(comparisons=comparisons, p_value=0.2)
    verdict = CALIBRATOR.changed(verdict="trained", claims=(open_,), finalist="trained", order=("trained",))
    assert (
        "The 500 test rows show the fine-tuned model to be better than the uploaded model (Brier score), but do not "
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
        "The fine-tuned model loses accuracy, by more than the 0.005 that is allowed, so it is not served.",
        "The average with the fine-tuned model is shown to be worse in NLL, so it is not served.",
        "The post-hoc calibrator says that one class is rarer or more common than it is (class “b”), by "
        "more than the 1.3 that is allowed, but chance explains it.",
    ]
    assert "judged 30 times before" in rest[-1]
    assert not [sentence for sentence in rest if "p =" in sentence or "p <" in sentence or "interval" in sentence]


def test_what_gave_way_is_named() -> None:
    """A vetoed finalist has a sentence, and what is served is the next in line."""
    veto = GateVeto(finalist="post_hoc", reason="worse", value=0.05, against="uploaded", p_value=0.002)
    claims = (claim("same_labels", significant=True), claim("post_hoc", significant=False))
    of = {"order": ("same_labels",), "vetoes": (veto,), "finalist": "same_labels"}
    verdict = GateVerdict(verdict="post_hoc", score="nll", claims=claims, guards=(), sentences=(), **of)
    first, *rest = sentences_of(verdict, 500)
    assert first.startswith("The test rows veto what comes before it in line. The 500 test rows show a temp")
    worse = "The post-hoc calibrator is shown to be worse than the uploaded model: NLL +0.0500"
    assert f"{worse}, so it is not served." in rest


def test_nothing_served_says_why() -> None:
    """Where everything is stopped the test rows are the reason."""
    veto = GateVeto(finalist="post_hoc", reason="worse", value=0.1, against="uploaded", p_value=0.01)
    stopped = UNCHANGED.changed(vetoes=(veto,))
    assert "the test rows veto everything" in sentences_of(stopped, 500)[0]
