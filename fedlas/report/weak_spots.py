"""The page's weak spots: where not to trust the model, class by class and slice by slice, and the positive class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlas.report.figures import figure, p_value
from fedlas.report.html import Markup, element, listed, section, table
from fedlas.report.sentences import percent, positive_sentence

Content = Mapping[str, Any]


def where_not_to_trust(content: Content) -> Markup:
    """The worst class and slice in a sentence each, then both tables."""
    worst = [sentence for sentence in content["worst"].values() if sentence]
    return section(
        "Where not to trust it",
        listed(worst),
        element("h3", "Classes"),
        _classes(content),
        _slices(content),
        name="trust",
    )


def _classes(content: Content) -> Markup:
    alpha, part = 1 - content["confidence_level"], content["classes"]
    rows = [
        [
            row["name"],
            f"{row['num_rows']:,}",
            figure(row["recall"], as_percent=True),
            f"{row['num_predicted']:,}",
            percent(row["mean_confidence"]),
            figure(row["precision"], as_percent=True),
            _gap(row["gap"], row["p_adjusted"], alpha),
            figure(row["calibration_error_l2"], as_percent=False),
            f"{row['brier']:.4f}",
        ]
        for row in part["rows"]
    ]
    headings = (
        "class",
        "rows",
        "found (recall)",
        "answers",
        "says",
        "is right",
        "too sure by",
        "squared error",
        "Brier part",
    )
    left_out = part["num_classes"] - len(rows)
    note = f" {left_out:,} further classes are not shown." if left_out else ""
    return element(
        "div",
        table(headings, rows),
        element(
            "p",
            "Worst first. “Says” and “is right” are about the rows where the class is the answer; red where the "
            "difference "
            f"is shown (all classes tested together, Holm's correction).{note}",
            class_="note",
        ),
    )


def _gap(gap: Mapping[str, float] | None, p_adjusted: float | None, alpha: float) -> Markup:
    shown = p_adjusted is not None and p_adjusted <= alpha
    return element("span", figure(gap, as_percent=True, signed=True), class_="flag" if shown else "plain")


def _slices(content: Content) -> Markup | None:
    part = content["slices"]
    if part is None:
        return None
    alpha = 1 - content["confidence_level"]
    rows = [
        [
            f"{row['column']} = {row['value']}",
            f"{row['num_rows']:,}",
            percent(row["mean_confidence"]),
            figure(row["accuracy"], as_percent=True),
            _gap(row["gap"], row["p_miscalibrated"], alpha),
            p_value(row["p_miscalibrated"]),
            _flagged(row["p_worse"], alpha),
            figure(row["brier"], as_percent=False),
            figure(row["nll"], as_percent=False),
        ]
        for row in part["rows"]
    ]
    headings = ("slice", "rows", "says", "is right", "too sure by", "p: off", "p: worse than rest", "Brier", "NLL")
    skipped = [f" Columns with too many values are left out: {', '.join(part['skipped'])}."] if part["skipped"] else []
    return element(
        "div",
        element("h3", "Slices"),
        table(headings, rows),
        element(
            "p",
            f"The worst {len(rows)} of {part['num_slices']:,} slices. Every slice was asked whether it is "
            "miscalibrated and "
            "whether it is right less often than the rest; p-values are corrected for all of these questions (Holm).",
            *skipped,
            class_="note",
        ),
    )


def _flagged(p: float | None, alpha: float) -> Markup:
    return element("span", p_value(p), class_="flag" if p is not None and p <= alpha else "plain")


def binary(content: Content) -> Markup | None:
    """The positive class of a two-class problem, in the three models."""
    part = content["binary"]
    if part is None:
        return None
    lines = (
        ("share that is positive", "prevalence", True),
        ("mean probability stated", "mean_probability", True),
        ("found (recall)", "recall", True),
        ("right when it says so (precision)", "precision", True),
        ("area under precision and recall", "average_precision", False),
        ("ECE of the positive class", "ece", True),
        ("squared calibration error", "calibration_error_l2", False),
        ("calibration slope (1 is right)", "slope", False),
        ("calibration intercept (0 is right)", "intercept", False),
    )
    rows = [
        [title, *(_cell(part[name][key], as_percent) for name in ("uploaded", "temperature", "calibrated"))]
        for title, key, as_percent in lines
    ]
    return section(
        f"The positive class: “{part['positive_class']}”",
        element("p", positive_sentence(part, content["confidence_level"])),
        table(["", "As uploaded", "With a temperature", "To be served"], rows),
        name="positive",
    )


def _cell(value: Any, as_percent: bool) -> Markup | str:
    if isinstance(value, Mapping) or value is None:
        return figure(value, as_percent=as_percent)
    return percent(value) if as_percent else f"{value:.4f}"
