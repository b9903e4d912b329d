"""Wrong labels: exactly that many, to another class, evenly, and the verdicts are counted."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.report.diagnostics import sensitivity


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
