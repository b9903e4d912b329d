"""Interval plots: what is served against the others in every metric.

The same interval, small and without words, stands in a table's row beside its figures (`interval_cell`).
"""

from __future__ import annotations

from collections.abc import Sequence

from fedlas.metrics import Estimate
from fedlas.report.diagrams.drawing import TITLES, legend, line, mark, opening, text
from fedlas.report.diagrams.scale import Scale
from fedlas.report.document import CalibrationReport
from fedlas.report.wording import signed

#: Metrics with an interval, their names, and whether more is better.
_METRICS = {
    "accuracy": ("Accuracy", 1),
    "brier": ("Brier score", -1),
    "nll": ("NLL", -1),
    "calibration_error_l2": ("Squared calibration error", -1),
    "aurc": ("AURC", -1),
    "augrc": ("AUGRC", -1),
}
_OTHERS = ("uploaded", "temperature")
_WIDTH, _LEFT, _ACROSS, _TOP = 430, 16, 398, 78
_CELL_WIDTH, _CELL_HEIGHT = 130, 20


def forest_svg(report: CalibrationReport) -> str:
    """The differences of what is served from the upload, and from the upload with a temperature, with intervals.

    To the right is better. Every metric has a scale of its own, whose end is written above it.
    """
    height, middle = _TOP + 58 * len(_METRICS) + 10, _LEFT + _ACROSS / 2
    title = "To be served, against the others"
    parts = [
        opening(_WIDTH, height, title, _told(report)),
        text(_LEFT, 20, title, size=14, bold=True),
        legend(_OTHERS, _LEFT, 42),
        text(middle - 8, 66, "← worse", size=11, colour="soft", anchor="end"),
        text(middle + 8, 66, "better →", size=11, colour="soft"),
        line(middle, _TOP - 6, middle, height - 8, "soft"),
    ]
    for i, (metric, (name, sign)) in enumerate(_METRICS.items()):
        found = [_difference(report, metric, other) for other in _OTHERS]
        extent = max(abs(end) for one in found for end in (one.low, one.high, one.value))
        # Where nothing differs, everything stands in the middle.
        y, scale = _TOP + 58 * i, Scale(-(extent or 1), extent or 1, _LEFT, _ACROSS)
        end = f"± {100 * extent:.2g} points" if metric == "accuracy" else f"± {extent:.2g}"
        parts += [
            line(_LEFT, y - 4, _LEFT + _ACROSS, y - 4, "grid"),
            text(_LEFT, y + 13, name, bold=True),
            text(_LEFT + _ACROSS, y + 13, end, size=11, colour="soft", anchor="end"),
        ]
        for row, (other, one) in enumerate(zip(_OTHERS, found, strict=True)):
            low, high = sorted((sign * one.low, sign * one.high))
            hint = f"{name}, minus {TITLES[other].lower()}: {_in_words(one)}"
            parts.append(_interval(scale, low, sign * one.value, high, y + 26 + 16 * row, other, hint))
    return "\n".join([*parts, "</svg>"]) + "\n"


def interval_cell(estimate: Estimate | None, extent: float) -> str:
    """An interval on a scale from −`extent` to `extent`, for a table's row, whose other cells say its figures."""
    if estimate is None:
        return ""
    scale, y = Scale(-extent, extent, 5, _CELL_WIDTH - 10), _CELL_HEIGHT / 2
    shown = estimate.low > 0 or estimate.high < 0
    parts = [
        f'<svg class="cell" viewBox="0 0 {_CELL_WIDTH} {_CELL_HEIGHT}" width="{_CELL_WIDTH}" '
        f'height="{_CELL_HEIGHT}" aria-hidden="true" focusable="false">',
        line(scale(0), 0, scale(0), _CELL_HEIGHT, "band-edge"),
        line(scale(estimate.low), y, scale(estimate.high), y, "ink" if shown else "soft", width=2),
        mark(scale(estimate.value), y, 4, "calibrated", hollow=not shown),
        "</svg>",
    ]
    return "".join(parts)


def common_extent(estimates: Sequence[Estimate | None]) -> float:
    """The end of a scale that holds the intervals of all rows but the few widest, in round figures."""
    ends = sorted(max(abs(one.low), abs(one.high)) for one in estimates if one is not None)
    return ends[int(0.9 * (len(ends) - 1))] if ends and ends[-1] > 0 else 1.0


def _told(report: CalibrationReport) -> str:
    parts = []
    for metric, (name, _) in _METRICS.items():
        for other in _OTHERS:
            one = _difference(report, metric, other)
            parts.append(f"{name} minus {TITLES[other].lower()}: {_in_words(one)}")
    return f"{'. '.join(parts)}."


def _in_words(one: Estimate) -> str:
    return f"{signed(one.value)} ({signed(one.low)} to {signed(one.high)})"


def _difference(report: CalibrationReport, metric: str, other: str) -> Estimate:
    found = report.differences[f"calibrated_minus_{other}"][metric]
    assert isinstance(found, Estimate)
    return found


def _interval(scale: Scale, low: float, value: float, high: float, y: float, model: str, hint: str) -> str:
    ends = [line(scale(x), y - 4, scale(x), y + 4, model, width=1.5) for x in (low, high)]
    return "\n".join(
        [line(scale(low), y, scale(high), y, model, width=1.8), *ends, mark(scale(value), y, 4.5, model, hint=hint)]
    )
