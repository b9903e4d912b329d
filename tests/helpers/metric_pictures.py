"""Pictures of the glossary: ECE, NLL and Brier score as areas, of one classifier on real digits.

`python -m tests.helpers.metric_pictures` writes them into `docs/images`. The classifier is naive Bayes on every fifth
pixel, whose probabilities are a formula: every machine draws the same.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from fedlas.metrics import brier, ece, nll, reliability_curve
from fedlas.report.drawing import COLOURS, area, line, opening, rectangle, text
from tests.helpers import ROOT

Floats = NDArray[np.float64]

IMAGES = ROOT / "docs" / "images"
_TRAINED = 500
#: Left, top, width and height of the square that is drawn into.
_LEFT, _TOP, _ACROSS, _UP = 64, 46, 340, 200
_WIDTH, _HEIGHT = _LEFT + _ACROSS + 24, _TOP + _UP + 52
#: Rows whose class is given less than this are sure mistakes.
_SURE = 0.01


def pictures() -> dict[str, str]:
    """The SVG of each metric, by its name."""
    pixels, targets = load_digits(return_X_y=True)
    pixels = pixels[:, ::5]
    model = GaussianNB(var_smoothing=0.1).fit(pixels[:_TRAINED], targets[:_TRAINED])
    probs, targets = model.predict_proba(pixels[_TRAINED:]), targets[_TRAINED:]
    given = probs[np.arange(len(targets)), targets]
    squared = ((probs - np.eye(10)[targets]) ** 2).sum(1)
    return {
        "ece": _gaps(probs, targets),
        "nll": _costs("NLL", nll(probs, targets), -np.log(given), given, highest=20),
        "brier": _costs("Brier score", brier(probs, targets), squared, given, highest=2),
    }


def _gaps(probs: Floats, targets: NDArray[np.int64]) -> str:
    """Mean confidence and accuracy of each bin, as wide as its share of the rows: what lies between them is the ECE."""
    curve = reliability_curve(probs, targets)
    filled = [i for i, count in enumerate(curve.counts) if count]
    ends = np.cumsum([curve.counts[i] for i in filled]) / len(targets)
    parts = []
    for i, start, end in zip(filled, [0.0, *ends[:-1]], ends, strict=True):
        says, right = curve.mean_confidence[i], curve.accuracy[i]
        parts += [
            rectangle(_x(start), _y(max(says, right)), _x(end) - _x(start), _UP * abs(says - right), fill="temperature",
                      opacity=0.45),
            line(_x(start), _y(says), _x(end), _y(says), "uploaded", width=2.5),
            line(_x(start), _y(right), _x(end), _y(right), "calibrated", width=2.5),
        ]  # fmt: skip
    value = ece(probs, targets)
    parts += [
        text(_x(0.98), _y(0.14), "what it says", colour="uploaded", anchor="end", bold=True),
        text(_x(0.98), _y(0.05), "how often it is right", colour="calibrated", anchor="end", bold=True),
    ]
    title = f"ECE {100 * value:.1f} %: the shaded part of the square"
    return _drawing(title, parts, [(share, f"{100 * share:.0f} %") for share in (0, 0.5, 1)], "rows, the surest last")


def _costs(name: str, value: float, costs: Floats, given: Floats, *, highest: int) -> str:
    """The cost of each row, the dearest first: the area is the mean cost, and the part of sure mistakes is darker."""
    order = np.argsort(given)
    sure = float(np.mean(given < _SURE))
    shares = np.unique([*np.linspace(0, 1, 80), sure])
    costs_there = np.interp(shares, (np.arange(len(costs)) + 0.5) / len(costs), costs[order])
    corners = [f"{_x(share):.1f},{_y(cost / highest):.1f}" for share, cost in zip(shares, costs_there, strict=True)]
    first = corners[: int(np.searchsorted(shares, sure)) + 1]
    of_sure = costs[given < _SURE].sum() / costs.sum()
    parts = [
        area([f"{_x(0):.1f},{_y(0):.1f}", *corners, f"{_x(1):.1f},{_y(0):.1f}"], "temperature", opacity=0.45),
        area([f"{_x(0):.1f},{_y(0):.1f}", *first, f"{_x(sure):.1f},{_y(0):.1f}"], "uploaded", opacity=0.9),
        text(_x(sure) + 12, _y(0.92), f"{100 * sure:.0f} % of the rows: their class was given", colour="uploaded"),
        text(_x(sure) + 12, _y(0.84), f"less than 1 %; {100 * of_sure:.0f} % of the score", colour="uploaded"),
    ]
    labels = [(share, f"{highest * share:g}") for share in (0, 0.5, 1)]
    return _drawing(f"{name} {value:.2f}: the mean height", parts, labels, "rows, the worst first")


def _drawing(title: str, parts: list[str], labels: list[tuple[float, str]], rows: str) -> str:
    """A picture in light colours, and in dark ones where the reader's screen is dark."""
    dark = (ROOT / "fedlas/report/templates/tokens.css").read_text().split("@media")[1]
    tokens = [(name, colour) for name, colour in re.findall(r"--([\w-]+): (#\w+)", dark) if name in COLOURS]
    drawn = [
        text(_LEFT, 28, title, size=14, bold=True),
        *(line(_LEFT, _y(share), _x(1), _y(share), "grid") for share, _ in labels),
        *parts,
        *(text(_LEFT - 8, _y(share) + 4, label, size=11, colour="soft", anchor="end") for share, label in labels),
        text(_x(0), _y(0) + 17, "0 %", size=11, colour="soft", anchor="middle"),
        text(_x(1), _y(0) + 17, "100 %", size=11, colour="soft", anchor="middle"),
        text(_x(0.5), _y(0) + 36, rows, anchor="middle"),
    ]
    used = "\n".join(drawn)
    rules = "".join(
        f".{kind}-{name}{{{kind}:{colour}}}"
        for name, colour in tokens
        for kind in ("fill", "stroke")
        if f"{kind}-{name}" in used or name == "paper"
    )
    start = opening(_WIDTH, _HEIGHT, title, f"{title}, of naive Bayes on digits. Across: {rows}.")
    return f"{start}\n<style>@media(prefers-color-scheme:dark){{{rules}}}</style>\n{used}\n</svg>\n"


def _x(share: float) -> float:
    return _LEFT + _ACROSS * share


def _y(share: float) -> float:
    return _TOP + _UP * (1 - min(share, 1.0))


def main() -> None:
    """Write the pictures."""
    for name, svg in pictures().items():
        (IMAGES / f"{name}.svg").write_text(svg)


if __name__ == "__main__":
    main()
