"""The page's evidence: what the gate claimed, what is promised, what wrong labels would do, FedLAS's own signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlas.gate.non_inferiority import GUARD_NAMES
from fedlas.report.figures import figure, p_value
from fedlas.report.html import Markup, element, listed, section, table
from fedlas.report.sentences import looks_sentence, percent

Content = Mapping[str, Any]

_FINALISTS = {
    "uploaded": "model as uploaded",
    "same_labels": "uploaded model with a calibrator that keeps every label",
    "post_hoc": "uploaded model with a calibrator",
    "trained": "fine-tuned model",
}


def gate(content: Content) -> Markup:
    """Claims with intervals, guards, and how often these rows have judged."""
    part = content["gate"]
    claims = [
        [
            f"The {_named(claim['finalist'])} beats the {_named(c['against'])}",
            element(
                "span",
                "shown" if c["p_value"] <= claim["level"] else "not shown",
                class_="fine" if c["p_value"] <= claim["level"] else "plain",
            ),
            figure(c, as_percent=False, signed=True),
            p_value(c["p_value"]),
            f"{claim['level']:.4g}",
        ]
        for claim in part["claims"]
        for c in claim["comparisons"]
    ]
    guards = [
        [
            f"The {_named(guard['finalist'])} {GUARD_NAMES.get(guard['name'], guard['name'].replace('_', ' '))}",
            element(
                "span", "passed" if guard["passed"] else "stopped it", class_="fine" if guard["passed"] else "flag"
            ),
            f"{guard['value']:+.4f}",
            f"{guard['limit']:.4g}",
        ]
        for guard in part["guards"]
    ]
    return section(
        "Why this verdict",
        element(
            "p",
            "Before the test rows were opened it was fixed which models would be compared and in which score "
            f"({part['score']}"
            ", lower is better). A claim counts only if chance would produce it less often than the level allows; "
            "guards can "
            "stop a promotion and never cause one.",
        ),
        table(["claim", "", f"difference in {part['score']}", "p", "level"], claims) if claims else None,
        table(["guard: the promotion is stopped if", "", "value", "limit"], guards) if guards else None,
        listed(part["sentences"][1:]),
        element("p", looks_sentence(content), class_="note"),
        name="gate",
    )


def _named(finalist: str) -> str:
    return _FINALISTS.get(finalist, finalist)


def guarantees(content: Content) -> Markup | None:
    """Level → threshold and share answered; coverage → size of the sets; and what was found on test rows."""
    part = content["guarantees"]
    if part is None:
        return None
    errors = [
        [
            f"at most {percent(row['level'], 0)} wrong",
            "cannot be promised" if row["threshold"] is None else f"{row['threshold']:.4f}",
            percent(row["answered"]),
            figure(row["error_rate"], as_percent=True),
            "" if row["reachable"] is None else f"from {percent(row['reachable'], 2)} on",
        ]
        for row in part["max_error"]
    ]
    sets = [
        [
            f"true class in the set: {percent(row['level'], 0)}",
            "cannot be promised" if row["mean_size"] is None else f"{row['mean_size']:.2f} classes",
            figure(row["covered"], as_percent=True),
            "" if row["reachable"] is None else f"up to {percent(row['reachable'], 2)}",
        ]
        for row in part["coverage"]
    ]
    return section(
        "What can be promised",
        element(
            "p",
            f"Set on {part['num_rows']:,} rows that were used for nothing else. All error levels hold together, with "
            f"{percent(1 - part['delta'], 0)} probability, on new rows like these. What was found on the test rows "
            "stands "
            "beside it.",
        ),
        table(["promise", "answer from this confidence on", "answered", "wrong among them here", "reachable"], errors),
        table(["promise", "size of the set", "held here", "reachable"], sets),
        name="guarantees",
    )


def label_noise(content: Content) -> Markup | None:
    """How often the verdict would be the same with some labels wrong."""
    part = content["label_noise"]
    if part is None:
        return None
    rows = [
        [
            f"{100 * level['share']:g} % ({level['rows']:,} rows)",
            f"{level['same']} of {part['draws']}",
            ", ".join(f"{name.replace('_', '-')} {percent(share, 0)}" for name, share in level["verdicts"].items()),
        ]
        for level in part["levels"]
    ]
    return section(
        "If some test labels were wrong",
        element(
            "p", "That share of the test labels was replaced by a wrong class at random, and the gate asked again."
        ),
        table(["wrong labels", "same verdict", "verdicts"], rows),
        name="labels",
    )


def signs(content: Content) -> Markup | None:
    """Whether FedLAS had anything to work with."""
    part = content["signs"]
    if part is None:
        return None
    norm, smoothing, turned = part.get("feature_norm"), part.get("epsilon") or {}, part.get("gate") or {}
    lines = (
        ("feature norm: does it know what is right? (AUROC, 0.5 is guessing)", norm and norm["auroc"], False),
        ("smoothing where the model is right", smoothing.get("right"), False),
        ("smoothing where it is wrong", smoothing.get("wrong"), False),
        ("rows whose gate is positive", turned.get("positive"), True),
        ("rows whose gate training turned", turned.get("flipped"), True),
    )
    rows = [[title, figure(value, as_percent=as_percent)] for title, value, as_percent in lines if value]
    return section(
        "FedLAS's own signs",
        listed(part.get("sentences", ())),
        table(["sign", "value"], rows) if rows else None,
        name="signs",
    )
