"""The page's end: the race's candidates, what the numbers rest on, and the words explained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedlas.report.html import Markup, element, section, table

Content = Mapping[str, Any]

_SCORES = ("nll", "brier", "accuracy", "ece")

_WORDS = {
    "Confidence": "The probability that the model gives to its answer. It is calibrated if answers with a confidence "
    "of "
    "80 % are right 80 % of the time.",
    "Temperature": "One number by which the model's scores are divided, so that it is less (or more) sure. The answers "
    "stay the same.",
    "Brier score": "Mean squared distance between the stated probabilities and what came true, summed over the "
    "classes: "
    "0 is perfect, 2 the worst. It rewards being right and being honest about it, so it decides.",
    "NLL": "Negative log-likelihood: how surprised the model is by the truth. It punishes confident mistakes hardest.",
    "ECE": "Expected calibration error: the mean distance between confidence and accuracy, over bins of confidence. "
    "Chance "
    "alone makes it larger than 0, which is why its noise stands beside it.",
    "Adaptive and classwise ECE": "The same with bins of equally many rows, and for every class's probability.",
    "Squared calibration error": "The mean squared distance between confidence and accuracy with the part that chance "
    "adds "
    "taken off. It can be slightly negative where nothing is wrong.",
    "AURC, AUGRC": "What is wrong among the surest answers, averaged over how many are answered (AURC: the rate among "
    "the "
    "answers; AUGRC: as a share of all rows). Low values mean that the model knows where it errs.",
    "Interval": "Where the true figure may lie. If the interval of a difference holds 0, no difference is shown.",
    "p-value": "How often chance alone would look like this. Where many questions are asked at once it is corrected "
    "(Holm), so that chance names nobody.",
    "Calibration, guarantee and test rows": "Calibration rows choose and fit, guarantee rows set thresholds, test rows "
    "judge once. No row does two of these.",
    "Guard": "Something that a promoted model may not make worse: accuracy, the ranking of its confidences, one class.",
}


def candidates(content: Content) -> Markup | None:
    """Every candidate with its scores on the calibration rows."""
    if not content["candidates"]:
        return None
    rows = [
        [
            str(candidate.get("name", "")),
            str(candidate.get("status") or ""),
            str(candidate.get("reason") or ""),
            *(_number((candidate.get("calibration") or {}).get(score)) for score in _SCORES),
        ]
        for candidate in content["candidates"]
    ]
    return section(
        "The race",
        element(
            "p", "All candidates, with their scores on the calibration rows. The test rows played no part in this."
        ),
        table(["candidate", "status", "why", "NLL", "Brier", "accuracy", "ECE"], rows, numbers_from=3),
        name="race",
    )


def provenance(content: Content) -> Markup:
    """Recipe, seed, digests, versions and machine."""
    parts = [
        ("Recipe", {**content["recipe"], "seed": content["seed"], "model has seen": content.get("seen_by_model")}),
        ("Digests", content["digests"]),
        ("Versions", content["versions"]),
        ("Machine", content["machine"]),
    ]
    return section(
        "What the numbers rest on",
        [[element("h3", title), _facts(facts)] for title, facts in parts if facts],
        name="provenance",
    )


def glossary(content: Content) -> Markup:
    return section("Words", element("dl", [_entry(word, meaning) for word, meaning in _WORDS.items()]), name="words")


def _facts(facts: Mapping[str, Any]) -> Markup:
    return element("dl", [_entry(str(name), element("code", _written(value))) for name, value in facts.items()])


def _entry(name: str, meaning: str) -> list[Markup]:
    return [element("dt", name), element("dd", meaning)]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"
