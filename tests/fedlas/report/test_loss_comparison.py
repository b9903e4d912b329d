"""FedLAS's own part: which of its losses is compared, what is found, and what is said where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.report.loss_comparison import loss_comparison
from fedlas.report.out_of_fold import OutOfFold


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
    said = {"better": "is better than", "no_difference_shown": "is not shown to differ from", "worse": "is worse than"}[
        finding
    ]
    assert f"the best FedLAS candidate {said} the best with cross-entropy" in found.sentence
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
    assert [(one.against, one.finding) for one in found.differences] == [
        ("label_smoothing", "no_difference_shown"),
        ("cross_entropy", "better"),
    ]
    assert found.differences[0].nll.value == found.differences[0].rows_better == 0


def test_what_is_unknown_is_said() -> None:
    """Without a rival or without FedLAS nothing is compared; without any training there is no section."""
    alone = loss_comparison(OutOfFold({}, {"fedlas": rows(0.5)}))
    absent = loss_comparison(OutOfFold({}, {"cross_entropy": rows(0.5)}))
    assert alone is not None
    assert absent is not None
    assert (alone.method, alone.differences, absent.method) == ("fedlas", (), None)
    assert "no candidate with label smoothing or cross-entropy was trained" in alone.sentence
    assert "FedLAS was not trained beside it" in absent.sentence
    assert loss_comparison(OutOfFold({"uploaded": rows(0.5)})) is None
    assert loss_comparison(None) is None
