"""The gain of each part: differences by hand, missing ones, FedLAS's own, and the sentence where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.contract.sections import AddedPart, AddedParts
from fedlas.gate.guards import JudgedRows
from fedlas.report.parts import OutOfFold, added_parts, loss_comparison
from tests.helpers.drawn_rows import drawn_logits

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
    assert parts.sentence == "On the calibration rows, out of fold, the NLL is lowered by a temperature."
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
    said = {"no_difference_shown": "not shown to differ from"}.get(finding, f"{finding} than")
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
    assert "FedLAS was not trained beside it" in absent.sentence
    assert loss_comparison(OutOfFold({"uploaded": rows(0.5)})) is None
    assert loss_comparison(None) is None
