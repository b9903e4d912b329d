"""Confident answers: their figures, the class that is too sure, and the colour of the page."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.contract.report import GateClaim
from fedlas.gate.guards import JudgedRows
from fedlas.report.sections import confident_section, confident_sentence
from tests.helpers.reports import CALIBRATOR, is_whole, report


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
        (True, 14, "good", "Calibrator served, shown to be better"),
        (False, 14, "open", "Calibrator served"),
        (True, 40, "open", "Calibrator served, shown to be better; 10.0 points too sure"),
    ],
)
def test_green_is_for_what_is_shown_and_true(significant: bool, wrong: int, colour: str, title: str) -> None:
    """The page is green where the served model is shown to be better and its confident answers hold, else amber."""
    claim = GateClaim(finalist="post_hoc", significant=significant, p_value=0.01, level=0.05, comparisons=())
    gate = CALIBRATOR.changed(claims=(claim,))
    assert f'<span class="badge {colour}">{title}</span>' in is_whole(report(*answers(0.9, wrong), gate=gate))
