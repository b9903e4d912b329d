"""Caveats: what is doubtful is said, and nothing else."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators import softmax
from fedlas.contract.figures import Estimate
from fedlas.contract.profiles import Notice
from fedlas.gate.guards import JudgedRows
from fedlas.report import Evidence, SplitAccuracy
from fedlas.report.build import caveats, splits_apart
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import UNCHANGED, report


def said(before: float, now: float, rows: int, *, groups: int | None = None) -> str:
    """All caveats where the uploaded model is right in the first rows of each split."""
    targets = np.arange(rows) % 2
    of = None if groups is None else np.arange(rows) * groups // rows
    right = {name: np.arange(rows) < share * rows for name, share in (("before", before), ("now", now))}
    accuracy = SplitAccuracy.of(right["before"], groups=of)
    evidence = Evidence(gate=UNCHANGED, uploaded=(), temperature=(), calibrated=(), targets=targets)
    apart = splits_apart(accuracy, SplitAccuracy.of(right["now"], groups=of))
    estimates = {"accuracy": Estimate(value=now, low=now, high=now), "nll": Estimate(value=0.01, low=0.01, high=0.01)}
    return "\n".join(caveats(evidence, JudgedRows(targets, of), ["a", "b"], dict(estimates), apart))


def test_too_easy_calibration_rows_are_noticed() -> None:
    """Nine points apart on 500 rows is more than chance; two points apart on 100 rows, or ten in 50 groups, are not."""
    words = "more than chance explains"
    assert words in said(0.99, 0.90, 500)
    assert words not in said(0.92, 0.90, 100)
    assert "labels of calibration rows are wrong, and whether both splits were drawn alike" in said(0.80, 0.90, 500)
    assert words not in said(0.89, 0.90, 500)
    assert words not in said(0.90, 0.80, 500, groups=50)


def test_what_a_notice_says_is_not_said_again() -> None:
    """Classes without test rows are told once: with the evidence of a notice where there is one."""
    logits, _ = drawn_logits(300, 3)
    probs, targets = softmax(logits), np.arange(300) % 2
    notice = Notice(
        code="class_not_met",
        message="1 of 3 classes have no test row: 2.",
        evidence={"split": "test", "classes": ["2"]},
    )
    (alone,) = [one for one in report(probs, targets).warnings if "no test row" in one]
    assert "nothing is known about them" in alone
    warnings = report(probs, targets, warnings=[notice]).warnings
    assert [one for one in warnings if "no test row" in one] == [notice.message]


def test_right_rows_of_few_groups_are_not_suspected() -> None:
    """A model right on 499 of 500 rows is suspicious, unless they are of 20 patients: those may all be easy ones."""
    words = "has not seen these rows"
    assert words in said(0.998, 0.998, 500)
    assert words in said(0.998, 0.998, 500, groups=100)
    assert words not in said(0.998, 0.998, 500, groups=20)


def test_honest_provenance_is_not_nagged() -> None:
    """Where it is unknown what the model saw, the verdict says so already; 0.9 accuracy is not suspicious."""
    targets = np.arange(300) % 3
    assert not report(np.eye(3)[targets], targets, seen_by_model="unknown").as_dict()["warnings"]
    logits, labels = drawn_logits(300, 3)
    assert not report(softmax(logits), labels, seen_by_model="no").as_dict()["warnings"]
