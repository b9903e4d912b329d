"""The report as one self-contained HTML page, for somebody who has never heard of ECE; it computes nothing.

No script, no reference to anything outside; names of classes and slices come from strangers and are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlas.report import appendix, evidence_tables, weak_spots
from fedlas.report.diagrams import reliability_panel_svg, risk_coverage_svg
from fedlas.report.figures import figure
from fedlas.report.html import Markup, element, listed, section, table
from fedlas.report.sentences import abstaining, percent
from fedlas.report.style import STYLE

Content = Mapping[str, Any]

MODELS = {
    "uploaded": ("As uploaded", "The model that was sent, as it came."),
    "temperature": ("With a temperature", "The same model with the simplest calibrator: the best cheap alternative."),
    "calibrated": ("To be served", "What would be served: the rest of this page is about it."),
}
_BADGES = {
    "trained": ("Fine-tuned model promoted", "good"),
    "post_hoc": ("Calibrator promoted", "good"),
    "unchanged": ("Nothing changed", "same"),
    "undetermined": ("Undetermined", "open"),
}
_METRICS = (
    ("accuracy", "Accuracy", "higher is better", True),
    ("brier", "Brier score", "lower is better; decides", False),
    ("nll", "NLL", "lower is better", False),
    ("ece", "ECE", "beside its noise", True),
    ("adaptive_ece", "Adaptive ECE", "beside its noise", True),
    ("classwise_ece", "Classwise ECE", "beside its noise", True),
    ("calibration_error_l2", "Squared calibration error", "without bias", False),
    ("aurc", "AURC", "lower is better", False),
    ("augrc", "AUGRC", "lower is better", False),
)


def report_html(report: Any) -> str:
    """One HTML file with everything that the report holds, verdict first.

    Args:
        report: a `CalibrationReport` or its `as_dict()`.
    """
    content: Content = report if isinstance(report, Mapping) else report.as_dict()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "Calibration report"),
        element("style", Markup(STYLE)),
    )
    body = element("body", element("main", [part(content) for part in _PARTS]))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _opening(content: Content) -> Markup:
    title, kind = _BADGES.get(content["verdict"], (str(content["verdict"]), "same"))
    first = content["gate"]["sentences"][:1] or content["summary"][:1]
    groups = f" in {content['num_groups']:,} groups" if content.get("num_groups") else ""
    how, worth = "Judged on", f"Intervals hold with {100 * content['confidence_level']:g} % confidence."
    if content["verdict"] == "undetermined":
        how, worth = "Measured on", "The model may have seen these rows: no interval says anything about new ones."
    return element(
        "header",
        element("h1", "Can this model's confidence be believed?"),
        element("span", title, class_=f"badge {kind}"),
        element("p", first, class_="verdict"),
        element(
            "p",
            f"{how} {content['num_test_rows']:,} test rows{groups}, {content['num_classes']:,} classes. {worth}",
            class_="soft",
        ),
    )


def _meaning(content: Content) -> Markup:
    warnings = content["warnings"]
    box = element("div", element("b", "Check first"), listed(warnings), class_="warning") if warnings else None
    return section("What this means for you", box, listed(content["advice"]), name="meaning")


def _models(content: Content) -> Markup:
    cards = [_card(name, content) for name in MODELS]
    return section(
        "Three models side by side",
        element("div", cards, class_="cards"),
        _metrics_table(content),
        element(
            "p",
            "Small figures are intervals, or for the three ECEs the range that a perfectly calibrated model would "
            "score "
            "on as many rows. The last column is the model to be served minus the one with a temperature.",
            class_="note",
        ),
        name="models",
    )


def _card(name: str, content: Content) -> Markup:
    title, what = MODELS[name]
    c = content["confidence"][name]
    gap = c["mean_confidence"] - c["accuracy"]
    kind = "too sure of itself" if gap > 0 else "too modest"
    p = content["calibration_test"][name]["p_value"]
    doubt = p <= 1 - content["confidence_level"]
    return element(
        "div",
        element("h3", title),
        element("p", what, class_="soft"),
        element(
            "p",
            "Says ",
            element("b", percent(c["mean_confidence"])),
            ", is right ",
            element("b", percent(c["accuracy"])),
            " of the time.",
            class_="says",
        ),
        element(
            "p",
            f"On average {100 * abs(gap):.1f} points {kind}. Its confidences are "
            + ("shown to be off" if doubt else "not shown to be off")
            + f" (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}).",
        ),
        class_=f"card {name}",
    )


def _metrics_table(content: Content) -> Markup:
    rows = []
    for key, title, hint, as_percent in _METRICS:
        cells = [figure(content["metrics"][name][key], as_percent=as_percent) for name in MODELS]
        change = figure(content["differences"]["calibrated_minus_temperature"][key], as_percent=as_percent, signed=True)
        rows.append([[title, element("span", hint, class_="range")], *cells, change])
    return table(["", *(title for title, _ in MODELS.values()), "Served − temperature"], rows)


def _reliability(content: Content) -> Markup:
    panels = [element("figure", Markup(reliability_panel_svg(content, name))) for name in MODELS]
    return section(
        "How sure it says it is, and how often it is right",
        element(
            "p",
            "Every point is a bin of rows (larger: more rows). On the dashed line, what it says comes true. Below it "
            "the "
            "model is too sure of itself, above it too modest. Shaded is where the points of a perfectly calibrated "
            "model "
            "would lie by chance, so points inside the shade show nothing. The bars show how many rows have each "
            "confidence.",
        ),
        element("div", panels, class_="panels"),
        name="reliability",
    )


def _abstaining(content: Content) -> Markup:
    curves = ("uploaded", "temperature", "calibrated")
    return section(
        "If it may abstain",
        element("p", abstaining(content["risk_coverage"]["calibrated"])),
        element("figure", Markup(risk_coverage_svg(content, curves=curves)), class_="chart"),
        element(
            "p",
            "Read it from the right: everything is answered there; to the left only the rows of which the model is "
            "surest. "
            "A curve that falls to the left means that its confidence knows where it errs. The band holds point by "
            "point.",
            class_="note",
        ),
        name="abstaining",
    )


_PARTS = (
    _opening,
    _meaning,
    _models,
    _reliability,
    _abstaining,
    weak_spots.where_not_to_trust,
    weak_spots.binary,
    evidence_tables.gate,
    evidence_tables.guarantees,
    evidence_tables.label_noise,
    evidence_tables.signs,
    appendix.candidates,
    appendix.provenance,
    appendix.glossary,
)
