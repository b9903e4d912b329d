"""The report and its picture: complete, strict JSON, and the numbers that were computed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import cache
from typing import Any

import numpy as np
import pytest

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.gate.gate import judge
from fedlas.report import CalibrationReport, Evidence, build_report, library_versions, reliability_svg
from tests.fedlas.gate.test_gate import world

METRICS = {"accuracy", "nll", "brier", "calibration_error_l2", "ece", "adaptive_ece", "classwise_ece", "aurc", "augrc"}
BINNED = {"ece", "adaptive_ece", "classwise_ece"}


@cache
def example() -> tuple[CalibrationReport, np.ndarray, np.ndarray, np.ndarray]:
    logits, targets = world(400)
    uploaded, calibrated = softmax(3 * logits), softmax(logits)
    judgement = judge(uploaded=uploaded, post_hoc=calibrated, trained=None, targets=targets, provenance="no")
    evidence = Evidence(
        gate=judgement,
        uploaded=uploaded,
        temperature=calibrated,
        calibrated=calibrated,
        targets=targets,
        candidates=[{"name": "uploaded + temperature", "calibration": {"nll": float("nan")}}],
        recipe={"method": "auto"},
        seed=7,
        digests={"model": "sha256:ab"},
        notes=["A note."],
    )
    return build_report(evidence, num_resamples=200), uploaded, calibrated, targets


def content() -> dict[str, Any]:
    return example()[0].as_dict()


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
    text = json.dumps(content(), allow_nan=False)
    assert json.loads(text)["candidates"][0]["calibration"]["nll"] is None
    curve = content()["reliability"]["uploaded"]
    assert [value is None for value in curve["accuracy"]] == [count == 0 for count in curve["counts"]]
    assert sum(curve["counts"]) == content()["num_test_rows"] == 400


def test_the_summary_is_honest() -> None:
    """Verdict first, then numbers, then what noise alone would give, then the notes."""
    summary = content()["summary"]
    assert "promoted" in summary[0]
    assert any("perfectly calibrated model" in sentence for sentence in summary)
    assert summary[-1] == "A note."
    assert example()[0].verdict == content()["verdict"] == "post_hoc"


def test_versions_name_what_is_installed() -> None:
    """Python, NumPy and the library itself are always there."""
    assert {"python", "numpy", "fedlas"} <= set(library_versions())


@pytest.mark.parametrize("panels", [("uploaded", "calibrated"), ("temperature", "calibrated")])
def test_the_picture_is_self_contained_svg(panels: tuple[str, str]) -> None:
    """It parses as XML, needs no other file, runs no script, and has one point per bin that holds rows."""
    svg = reliability_svg(example()[0], panels=panels)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in svg
    assert "<script" not in svg
    assert "nan" not in svg.lower().replace("roboto", "")
    points = [c for c in root.iter("{http://www.w3.org/2000/svg}circle") if len(c)]
    filled = sum(count > 0 for name in panels for count in content()["reliability"][name]["counts"])
    assert len(points) == filled


def test_points_lie_where_the_numbers_say() -> None:
    """The first point of the first panel is at its bin's mean confidence and accuracy."""
    curve = content()["reliability"]["uploaded"]
    first = next(i for i, count in enumerate(curve["counts"]) if count)
    root = ET.fromstring(reliability_svg(example()[0]))
    point = next(c for c in root.iter("{http://www.w3.org/2000/svg}circle") if len(c))
    assert (float(point.get("cx", 0)) - 82) / 350 == pytest.approx(curve["mean_confidence"][first], abs=0.001)
    assert 1 - (float(point.get("cy", 0)) - 112) / 350 == pytest.approx(curve["accuracy"][first], abs=0.001)
