"""The report at its edges, and its page: always true, always strict JSON, every name escaped."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.errors import BadDataset
from fedlas.gate.claims import GateVerdict
from fedlas.gate.non_inferiority import JudgedRows
from fedlas.guarantees import Guarantees
from fedlas.metrics import Estimate
from fedlas.report import CalibrationReport, Evidence, build_report, report_html, risk_coverage_svg
from fedlas.report.caveats import caveats
from fedlas.report.diagnostics import fedlas_diagnostics
from fedlas.report.label_noise import sensitivity
from fedlas.report.page import environment
from tests.fedlas.gate.test_gate import world

HOSTILE = '<img src=x onerror="alert(1)">&\'</td></style><script>alert(2)</script>'
UNCHANGED = GateVerdict("unchanged", "brier", (), (), ("The uploaded model stays as it is.",))


def report(probs: np.ndarray, targets: np.ndarray, *, num_resamples: int = 60, **changes: Any) -> CalibrationReport:
    settings: dict[str, Any] = {
        "gate": UNCHANGED,
        "uploaded": probs,
        "temperature": probs,
        "calibrated": probs,
        "targets": targets,
        **changes,
    }
    return build_report(Evidence(**settings), num_resamples=num_resamples)


def is_whole(made: CalibrationReport) -> str:
    """Strict JSON, a page that closes every element, pictures that are XML; the page."""
    json.dumps(made.as_dict(), allow_nan=False)
    page = report_html(made)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    ET.fromstring(risk_coverage_svg(made))
    written = page.replace(page[page.index("<style>") : page.index("</style>")], "")
    assert not {"nan", "inf", "None", "NaN"} & set(written.replace(">", " ").replace("<", " ").split())
    return page


class Tags(HTMLParser):
    """Which elements and attributes a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: dict[str, set[str | None]] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_names_from_strangers_stay_text() -> None:
    """Names of classes, slices, candidates and files that are markup are read as text and open no element."""
    logits, targets = world(200, 3)
    made = report(
        softmax(logits),
        targets,
        class_names=[HOSTILE, "b", "c"],
        slices={HOSTILE: np.where(np.arange(200) < 100, HOSTILE, "fine")},
        candidates=[{"name": HOSTILE, "status": HOSTILE, "reason": HOSTILE, "calibration": {"nll": None}}],
        recipe={HOSTILE: HOSTILE},
        digests={"model": HOSTILE},
        machine={"device": HOSTILE},
    )
    tags = Tags()
    tags.feed(is_whole(made))
    assert tags.open == []
    assert not {"script", "img", "link", "iframe", "object", "a", "image", "use"} & tags.seen
    assert not {"src", "href", "onerror", "onload", "style"} & set(tags.attributes)
    assert sum(word.count(HOSTILE) for word in tags.words) >= 9


def test_the_page_needs_nothing_from_outside() -> None:
    """No address but the SVG namespace, no import and no url() in its style."""
    logits, targets = world(100, 3)
    page = report_html(report(softmax(logits), targets))
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in page
    assert "url(" not in page


def test_templates_escape_every_text() -> None:
    """Text in a template and in an argument of a macro is escaped once; what a macro returns is markup already."""
    macro = '{% from "macros.html.jinja" import marked %}{{ marked(text, true) }} {{ text }}'
    made = environment().from_string(macro).render(text='<b title="&">')
    assert made == '<span class="flag">&lt;b title=&#34;&amp;&#34;&gt;</span> &lt;b title=&#34;&amp;&#34;&gt;'


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
    """Sure and always wrong: accuracy 0, 100 % overconfident, refuted."""
    targets = np.arange(300) % 3
    made = report(np.eye(3)[(targets + 1) % 3], targets)
    content = made.as_dict()
    assert content["metrics"]["calibrated"]["accuracy"]["value"] == 0
    assert content["confidence"]["calibrated"]["over_confidence"] == 1
    assert content["calibration_test"]["calibrated"]["p_value"] == pytest.approx(1 / 61)
    assert content["classes"]["rows"][0]["p_adjusted"] == 0
    assert content["worst"]["class"].startswith("Worst class")
    assert "refuted" in " ".join(content["advice"])
    is_whole(made)


def test_a_uniform_model_cannot_abstain() -> None:
    """All confidences alike: one point on the curve, and it is said that nothing can be set aside."""
    targets = np.arange(60) % 3
    content = report(np.full((60, 3), 1 / 3), targets).as_dict()
    assert content["risk_coverage"]["calibrated"]["coverage"] == [1.0]
    assert any("too much alike" in sentence for sentence in content["advice"])


def test_one_class_only_says_so() -> None:
    """The others have no recall rather than one of 0, and a warning names the class."""
    logits, _ = world(50, 3)
    made = report(softmax(logits), np.ones(50, int), class_names=["a", "b", "c"])
    content = made.as_dict()
    assert any("All test rows are of one class (b)" in warning for warning in content["warnings"])
    assert {row["name"]: row["recall"] is None for row in content["classes"]["rows"]} == {
        "a": True,
        "b": False,
        "c": True,
    }
    is_whole(made)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_ten_rows_are_few(num_classes: int) -> None:
    """It is said, no class or slice of so few is tested, and nothing breaks."""
    logits, targets = world(10, num_classes)
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
    assert (
        report(probs, targets, class_names=["healthy", "ill"], positive_class="healthy").as_dict()["binary"][
            "calibrated"
        ]["recall"]
        == 1
    )
    with pytest.raises(ValueError, match="positive_class must be one of"):
        report(probs, targets, class_names=["healthy", "ill"], positive_class="dead")


def test_a_thousand_classes_stay_readable() -> None:
    """Fifty classes are shown, the rest counted; file and page stay small."""
    logits, targets = world(200, 1000)
    made = report(softmax(logits), targets, num_resamples=20)
    assert len(made.as_dict()["classes"]["rows"]) == 50
    page = is_whole(made)
    assert "950 further classes are not shown" in page
    assert len(page) < 300_000
    assert len(json.dumps(made.as_dict())) < 300_000


def test_rows_of_one_group_cannot_be_judged() -> None:
    """It is an error about the data, with a code; two groups are few, and that is said."""
    logits, targets = world(60, 3)
    with pytest.raises(BadDataset) as caught:
        report(softmax(logits), targets, groups=["clinic"] * 60)
    assert caught.value.code == "split_too_small"
    content = report(softmax(logits), targets, groups=["a", "b"] * 30).as_dict()
    assert any("only 2 groups" in warning for warning in content["warnings"])
    assert any("count as independent" in sentence for sentence in content["advice"])


def test_names_must_fit() -> None:
    """As many as there are columns."""
    logits, targets = world(20, 3)
    with pytest.raises(ValueError, match="class_names must be 3 names"):
        report(softmax(logits), targets, class_names=["a", "b"])


def test_promises_stand_beside_what_was_found() -> None:
    """Threshold and shares are those of the guarantees applied to the test rows; what cannot be promised is said."""
    logits, labels = world(3000, 4, seed=5)
    probs = softmax(logits)
    fitted = Guarantees.fit(probs[:2000], labels[:2000], class_names=list("abcd"))
    made = report(probs[2000:], labels[2000:], guarantees=fitted)
    rows = made.as_dict()["guarantees"]["max_error"]
    row = next(row for row in rows if row["level"] == 0.2)
    kept = probs[2000:].max(axis=1).astype(np.float32) >= fitted.threshold_for(0.2)
    wrong = probs[2000:].argmax(axis=1) != labels[2000:]
    assert row["threshold"] == fitted.threshold_for(0.2)
    assert row["answered"] == pytest.approx(kept.mean())
    assert row["error_rate"]["value"] == pytest.approx(wrong[kept].mean())
    sets = fitted.prediction_sets(probs[2000:], 0.9)
    covered = next(row for row in made.as_dict()["guarantees"]["coverage"] if row["level"] == 0.9)
    assert covered["mean_size"] == pytest.approx(sets.sum(axis=1).mean())
    assert covered["covered"]["value"] == pytest.approx(sets[np.arange(1000), labels[2000:]].mean())
    few = Guarantees.fit(probs[:50], labels[:50], class_names=list("abcd"))
    assert "cannot be promised" in is_whole(report(probs[2000:], labels[2000:], guarantees=few))


def test_everything_that_is_given_is_shown() -> None:
    """Diagnostics, label noise, earlier evaluations and duplicates reach summary and page."""
    logits, targets = world(300, 3)
    probs = softmax(logits)
    made = report(
        probs,
        targets,
        diagnostics=fedlas_diagnostics(feature_norms=logits.max(axis=1), correct=probs.argmax(axis=1) == targets),
        label_noise=sensitivity(lambda labels: "unchanged", targets, 3, shares=[0.05], draws=4),
        evaluations_before=3,
        duplicates={"calibration": 12, "train": 0},
    )
    page, summary = is_whole(made), " ".join(made.as_dict()["summary"])
    for text in ("same in 4 of 4 draws", "feature norm", "12 test rows also occur"):
        assert text in summary
    for title in ("If some test labels were wrong", "FedLAS's own diagnostics", "Check first", "judged 3 times before"):
        assert title in page
    assert "'train'" not in summary


def test_sections_are_the_metrics() -> None:
    """The risk-coverage curve, the signed error and what abstaining leaves are those of the functions."""
    logits, targets = world(500, 4, seed=2)
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


def test_too_easy_calibration_rows_are_noticed() -> None:
    """Nine points apart on 500 rows is more than chance; two points apart on 100 rows is not."""

    def warned(before: float, now: float, rows: int) -> bool:
        targets = np.arange(rows) % 2
        evidence = Evidence(
            gate=UNCHANGED,
            uploaded=(),
            temperature=(),
            calibrated=(),
            targets=targets,
            calibration_accuracy=before,
            num_calibration_rows=rows,
        )
        estimates = {"accuracy": Estimate(now, now, now), "nll": Estimate(0.5, 0.5, 0.5)}
        found = caveats(evidence, JudgedRows(targets, None), ["a", "b"], dict(estimates))
        return any("more than chance explains" in sentence for sentence in found)

    assert warned(0.99, 0.90, 500)
    assert not warned(0.92, 0.90, 100)
    assert not warned(0.80, 0.90, 500)


def test_honest_provenance_is_not_nagged() -> None:
    """Where it is unknown what the model saw, the verdict says so already; 0.9 accuracy is not suspicious."""
    targets = np.arange(300) % 3
    assert not report(np.eye(3)[targets], targets, seen_by_model="unknown").as_dict()["warnings"]
    logits, labels = world(300, 3)
    assert not report(softmax(logits), labels, seen_by_model="no").as_dict()["warnings"]


def test_the_risk_coverage_picture_draws_the_numbers() -> None:
    """Its last point stands at full coverage and at the error rate of everything."""
    logits, targets = world(300, 3)
    made = report(softmax(logits), targets)
    svg = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(risk_coverage_svg(made, curves=("calibrated",)))
    dot = next(root.iter(f"{svg}circle"))
    top = max(float((t.text or "0").split()[0]) for t in root.iter(f"{svg}text") if (t.get("text-anchor") == "end"))
    error = made.as_dict()["risk_coverage"]["calibrated"]["error_rate"][-1]
    assert float(dot.get("cx", 0)) == pytest.approx(72 + 460)
    assert (64 + 280 - float(dot.get("cy", 0))) / 280 * top / 100 == pytest.approx(error, abs=0.001)
