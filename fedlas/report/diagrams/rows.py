"""Diagrams of rows: the served model against the others in every metric, and the candidates of the race by NLL.

An interval, small and without words, stands in a table's row beside its figures (`interval_cell`).
"""

from __future__ import annotations

from collections.abc import Sequence

from fedlas.metrics import Estimate
from fedlas.report.diagrams.drawing import TITLES, Scale, legend, line, mark, opening, shortened, text
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
_WIDTH = 430
_LEFT = 16
_ACROSS = 398
_TOP = 78
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


#: Candidates that are drawn, and letters of their names.
_MOST, _LETTERS = 24, 52
_RACE_TOP = 58
_ROW = 34


def race_svg(report: CalibrationReport) -> str | None:
    """A row for each candidate with its calibration NLL; None where fewer than two have one.

    A filled mark is a candidate that was scored on all calibration rows, a hollow one was scored on some folds alone;
    what was served is bold.
    """
    nlls = [(one.get("calibration") or {}).get("nll") for one in report.candidates]
    scored = sorted((nll, i) for i, nll in enumerate(nlls) if nll is not None)
    if len(scored) < 2:
        return None
    shown = scored[:_MOST]
    height, bottom = _RACE_TOP + _ROW * len(shown) + 40, _RACE_TOP + _ROW * len(shown)
    room = 0.06 * (shown[-1][0] - shown[0][0]) or 0.01
    scale = Scale(shown[0][0] - room, shown[-1][0] + room, _LEFT, _ACROSS)
    best = report.candidates[shown[0][1]].get("name", "")
    title, more = "The race", f", the best {_MOST} of {len(scored)}" if len(scored) > _MOST else ""
    parts = [
        opening(_WIDTH, height, title, f"{len(scored)} candidates by NLL; the lowest has {best} ({shown[0][0]:.4f})."),
        text(_LEFT, 20, title, size=14, bold=True),
        text(_LEFT, 40, f"NLL on calibration rows, out of fold: the lower, the better{more}", colour="soft"),
    ]
    for step in scale.steps():
        parts.append(line(scale(step), _RACE_TOP - 6, scale(step), bottom, "grid"))
        parts.append(text(scale(step), bottom + 16, f"{step:g}", size=11, colour="soft", anchor="middle"))
    parts.append(text(_LEFT + _ACROSS / 2, bottom + 34, "NLL", anchor="middle"))
    winner = (report.recipe.get("winner") or {}).get("name")
    for row, (nll, i) in enumerate(shown):
        candidate, y = report.candidates[i], _RACE_TOP + _ROW * row
        name, whole = str(candidate.get("name", "")), candidate.get("status") == "finished"
        parts += [
            text(_LEFT, y + 9, shortened(name, _LETTERS), size=11, bold=name == winner),
            line(_LEFT, y + 20, _LEFT + _ACROSS, y + 20, "grid"),
            mark(scale(nll), y + 20, 5, "calibrated", hollow=not whole, hint=f"{name}: {nll:.4f}"),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
