"""The report: complete, strict JSON, true at its edges, and the numbers that were computed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.errors import BadDataset
from fedlas.report.parts import OutOfFold
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import content, example, is_whole, report

METRICS = {"accuracy", "nll", "brier", "calibration_error_l2", "ece", "adaptive_ece", "classwise_ece", "aurc", "augrc"}
BINNED = {"ece", "adaptive_ece", "classwise_ece"}


def test_the_report_has_what_the_contract_names() -> None:
    """Three models, all metrics each, two differences, and value with interval or noise floor everywhere."""
    shown = content()
    assert set(shown["metrics"]) == {"uploaded", "temperature", "calibrated"}
    assert set(shown["differences"]) == {"calibrated_minus_uploaded", "calibrated_minus_temperature"}
    for scores in [*shown["metrics"].values(), *shown["differences"].values()]:
        assert set(scores) >= METRICS
        for name in METRICS:
            bounds = {"floor_low", "floor_high"} if name in BINNED else {"low", "high"}
            assert set(scores[name]) == {"value", *bounds}
    assert {"verdict", "summary", "candidates", "recipe", "seed", "digests", "versions", "gate"} <= set(shown)


def test_the_numbers_are_the_metrics() -> None:
    """Values and differences are those that the metric functions give."""
    _, uploaded, calibrated, targets = example()
    shown = content()
    for name in ("nll", "brier", "accuracy", "ece", "aurc"):
        function = getattr(metrics, name)
        before, after = function(uploaded, targets), function(calibrated, targets)
        assert shown["metrics"]["uploaded"][name]["value"] == pytest.approx(before, rel=1e-9)
        assert shown["metrics"]["calibrated"][name]["value"] == pytest.approx(after, rel=1e-9)
        difference = shown["differences"]["calibrated_minus_uploaded"][name]["value"]
        assert difference == pytest.approx(after - before, abs=1e-12)
        assert shown["differences"]["calibrated_minus_temperature"][name]["value"] == 0


def test_the_report_is_strict_json() -> None:
    """No NaN and no infinity anywhere: empty bins and missing scores are null."""
    assert json.loads(json.dumps(content(), allow_nan=False))["candidates"][0]["calibration"]["nll"] is None
    curve = content()["reliability"]["uploaded"]
    assert [value is None for value in curve["accuracy"]] == [count == 0 for count in curve["counts"]]
    assert sum(curve["counts"]) == content()["num_test_rows"] == 400


def test_the_summary_is_honest() -> None:
    """The served model and how often it is right come first, then the next step, then the gate, then the notes."""
    summary = content()["summary"]
    assert summary[0].startswith("Served is")
    assert "says 64.2 % and is right on 65.5 % of the 400 test rows, within the ±4.4 points of chance" in summary[0]
    assert summary[:2] == content()["advice"]
    assert "show the post-hoc calibrator to be better" in summary[2]
    assert summary[-1] == "A note."
    assert example()[0].verdict == content()["verdict"] == "post_hoc"


def test_a_perfect_model_is_called_too_good() -> None:
    """Probabilities of exactly 0 and 1, all right: accuracy 1, no NaN, and a warning says what to check."""
    targets = np.arange(300) % 3
    made = report(np.eye(3)[targets], targets, seen_by_model="no")
    content = made.as_dict()
    assert content["metrics"]["calibrated"]["accuracy"]["value"] == 1
    assert content["calibration_test"]["calibrated"]["p_value"] == 1
    assert content["risk_coverage"]["calibrated"]["error_rate"][-1] == 0
    assert content["confidence"]["calibrated"]["over_confidence"] == 0
    assert any("has not seen these rows" in warning for warning in content["warnings"])
    assert "has not seen these rows" in is_whole(made)


def test_a_useless_model_is_called_so() -> None:
    """Sure and always wrong: accuracy 0, 100 points too sure, which chance does not explain."""
    targets = np.arange(300) % 3
    made = report(np.eye(3)[(targets + 1) % 3], targets)
    content = made.as_dict()
    assert content["metrics"]["calibrated"]["accuracy"]["value"] == 0
    assert content["confidence"]["calibrated"]["over_confidence"] == 1
    assert content["calibration_test"]["calibrated"]["p_value"] == pytest.approx(1 / 61)
    assert content["classes"]["rows"][0]["p_adjusted"] == 0
    assert content["worst"]["class"].startswith("Worst class")
    assert "says 100.0 % and is right on 0.0 %" in content["advice"][0]
    assert "100.0 points too sure, more than the ±0.0" in content["advice"][0]
    is_whole(made)


def test_a_uniform_model_cannot_abstain() -> None:
    """All confidences alike: one point on the curve, and it is said that nothing can be set aside."""
    content = report(np.full((60, 3), 1 / 3), np.arange(60) % 3).as_dict()
    assert content["risk_coverage"]["calibrated"]["coverage"] == [1.0]
    assert any("too much alike" in sentence for sentence in content["summary"])


def test_one_class_only_says_so() -> None:
    """The others have no recall rather than one of 0, and a warning names the class."""
    logits, _ = drawn_logits(50, 3)
    made = report(softmax(logits), np.ones(50, int), class_names=["a", "b", "c"])
    content = made.as_dict()
    assert any("All test rows are of one class (b)" in warning for warning in content["warnings"])
    absent = {row["name"]: row["recall"] is None for row in content["classes"]["rows"]}
    assert absent == {"a": True, "b": False, "c": True}
    is_whole(made)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_ten_rows_are_few(num_classes: int) -> None:
    """A report of ten rows says that they are few, tests no class or slice of so few, and nothing breaks."""
    logits, targets = drawn_logits(10, num_classes)
    made = report(softmax(logits), targets, slices={"s": list("aaaaabbbbb")})
    content = made.as_dict()
    assert any("only 10 test rows" in warning for warning in content["warnings"])
    assert all(row["p_adjusted"] is None for row in content["classes"]["rows"])
    assert content["worst"]["slice"] == "No slice has enough rows to be tested."
    is_whole(made)


def test_two_classes_show_the_positive_one() -> None:
    """Recall of the named class; never answering it is said, though accuracy is 99 %."""
    targets = np.zeros(400, int)
    targets[:4] = 1
    probs = np.tile([0.99, 0.01], (400, 1))
    made = report(probs, targets, class_names=["healthy", "ill"], positive_class="ill")
    content = made.as_dict()
    assert content["metrics"]["calibrated"]["accuracy"]["value"] == 0.99
    assert content["binary"]["positive_class"] == "ill"
    assert content["binary"]["calibrated"]["recall"] == 0
    assert any("never answers “ill”" in sentence for sentence in content["summary"])
    assert "The positive class: “ill”" in is_whole(made)
    made = report(probs, targets, class_names=["healthy", "ill"], positive_class="healthy")
    assert made.as_dict()["binary"]["calibrated"]["recall"] == 1
    with pytest.raises(ValueError, match="positive_class must be one of"):
        report(probs, targets, class_names=["healthy", "ill"], positive_class="dead")


def test_rows_of_one_group_cannot_be_judged() -> None:
    """A single group is an error about the data, with a code; two groups are few, and the report says so."""
    logits, targets = drawn_logits(60, 3)
    with pytest.raises(BadDataset) as caught:
        report(softmax(logits), targets, groups=["clinic"] * 60)
    assert caught.value.code == "split_too_small"
    content = report(softmax(logits), targets, groups=["a", "b"] * 30).as_dict()
    assert any("only 2 groups" in warning for warning in content["warnings"])


def test_names_must_fit() -> None:
    """There are as many names as columns."""
    logits, targets = drawn_logits(20, 3)
    with pytest.raises(ValueError, match="class_names must be 3 names"):
        report(softmax(logits), targets, class_names=["a", "b"])


def test_sections_are_the_metrics() -> None:
    """The risk-coverage curve, the signed error and what abstaining leaves are those of the functions."""
    logits, targets = drawn_logits(500, 4, seed=2)
    probs = softmax(1.7 * logits)
    content = report(probs, targets).as_dict()
    curve = content["risk_coverage"]["calibrated"]
    kept = probs.max(axis=1) >= curve["set_aside"]["threshold"]
    assert kept.mean() == pytest.approx(0.8, abs=0.005)
    assert curve["set_aside"]["error_rate"]["value"] == pytest.approx(1 - metrics.accuracy(probs[kept], targets[kept]))
    signed, shown = metrics.signed_ece(probs, targets), content["confidence"]["calibrated"]
    assert (shown["over_confidence"], shown["under_confidence"]) == pytest.approx(tuple(signed))
    assert content["machine"]["cpu_count"] >= 1
    assert content["machine"]["platform"]


def test_rows_that_may_have_been_seen_are_not_called_out_of_fold() -> None:
    """Where it is unknown what the model has seen, no part is said to have added anything."""
    logits, targets = drawn_logits(60, 3)
    rows = OutOfFold({"uploaded": np.ones(20), "temperature": np.linspace(0.5, 0.6, 20)})
    known = report(softmax(logits), targets, out_of_fold=rows, seen_by_model="no").as_dict()
    assert known["parts"]["rows"][1]["out_of_fold_nll"]["change"]["value"] == pytest.approx(-0.45)
    assert report(softmax(logits), targets, out_of_fold=rows, seen_by_model="unknown").as_dict()["parts"] is None
