"""The report: complete, strict JSON, true at its edges; its owner and environment, and what is doubtful."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.contract.figures import Estimate
from fedlas.contract.profiles import Notice
from fedlas.contract.report import Named, Subject
from fedlas.errors import BadDataset
from fedlas.gate.guards import JudgedRows
from fedlas.report import Evidence, SplitAccuracy, library_versions
from fedlas.report.build import caveats, splits_apart
from fedlas.report.parts import OutOfFold
from fedlas.report.provenance import rfc3339
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.refusals import refusal
from tests.helpers.reports import UNCHANGED, content, example, is_whole, report


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
    assert summary[0].startswith("Served: ")
    assert (
        "says 64.2 % and is right on 65.5 % of the 400 test rows, within the ±4.4 points that chance explains"
        in summary[0]
    )
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
    """All confidences alike: one point on the curve, and a sentence that nothing can be set aside."""
    content = report(np.full((60, 3), 1 / 3), np.arange(60) % 3).as_dict()
    assert content["risk_coverage"]["calibrated"]["coverage"] == [1.0]
    assert any("too similar" in sentence for sentence in content["summary"])


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
    """Recall of the named class; a model that never answers it is named, though accuracy is 99 %."""
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
    with refusal(BadDataset, "split_too_small"):
        report(softmax(logits), targets, groups=["clinic"] * 60)
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
    """Where it is unknown what the model has seen, no part claims to have added anything."""
    logits, targets = drawn_logits(60, 3)
    rows = OutOfFold({"uploaded": np.ones(20), "temperature": np.linspace(0.5, 0.6, 20)})
    known = report(softmax(logits), targets, out_of_fold=rows, seen_by_model="no").as_dict()
    assert known["parts"]["rows"][1]["out_of_fold_nll"]["change"]["value"] == pytest.approx(-0.45)
    assert report(softmax(logits), targets, out_of_fold=rows, seen_by_model="unknown").as_dict()["parts"] is None


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
    """Classes without test rows are reported once: with the evidence of a notice where there is one."""
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


TARGETS = np.arange(60) % 3
PROBS = np.full((60, 3), 0.2) + 0.4 * np.eye(3)[TARGETS]
ROWS = "3 classes, 60 test rows"
NAMED = Named(name="digits-cnn", id="mdl_1", sha256="5c" * 32), Named(name="fresh rows", id="ds_1", sha256="ab" * 32)
WHOLE = Subject(model=NAMED[0], dataset=NAMED[1], job_id="job_1", created_at="2026-07-05T09:03:01Z")


def heading(subject: Subject | None) -> str:
    """The text of the page above its first section, in one line."""
    page = is_whole(report(PROBS, TARGETS, subject=subject))
    return " ".join(re.sub("<[^>]+>", " ", page[page.index("<header>") : page.index("</header>")]).split())


def test_the_page_opens_with_whose_it_is() -> None:
    """Name and id of model and dataset, the job and the day, before any verdict; the document has digests too."""
    assert heading(WHOLE).startswith(
        "Calibration report of digits-cnn Model digits-cnn mdl_1 · Dataset fresh rows ds_1 · Job job_1 · "
        f"{ROWS} · 5 July 2026, 09:03 UTC"
    )
    assert report(PROBS, TARGETS, subject=WHOLE).as_dict()["subject"] == {
        "model": {"name": "digits-cnn", "id": "mdl_1", "sha256": "5c" * 32},
        "dataset": {"name": "fresh rows", "id": "ds_1", "sha256": "ab" * 32},
        "job_id": "job_1",
        "created_at": "2026-07-05T09:03:01Z",
    }


@pytest.mark.parametrize(
    ("subject", "opens_with"),
    [
        (None, "Calibration report"),
        (Subject(), "Calibration report"),
        (
            Subject(model=Named(name="digits.onnx")),
            "Calibration report of digits.onnx Model digits.onnx ·",
        ),
        (Subject(model=Named(sha256="5c")), "Calibration report Model 5c ·"),
        (
            Subject(model=None, dataset=Named(name="march", id="cal_1")),
            "Calibration report of march Scores march cal_1 ·",
        ),
    ],
)
def test_a_report_without_a_job_shows_what_it_has(subject: Subject | None, opens_with: str) -> None:
    """Nothing is made up: a name, a digest, scores without a model, or nothing at all."""
    assert heading(subject).startswith(f"{opens_with} {ROWS}")


def test_a_moment_is_written_in_utc_to_the_second() -> None:
    """A moment is in UTC whatever the zone of the request, and absent where there was none."""
    at = datetime(2026, 7, 5, 11, 3, 1, 999, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(at) == rfc3339(at.astimezone(UTC)) == "2026-07-05T09:03:01Z"
    assert rfc3339(None) is None


def test_versions_name_what_is_installed() -> None:
    """Python, NumPy and the library itself are always there."""
    assert {"python", "numpy", "fedlas"} <= set(library_versions())
