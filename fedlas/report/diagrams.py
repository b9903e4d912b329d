"""Diagrams of a report as self-contained SVG: reliability, risk-coverage, metrics with their intervals, the race."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import isnan

from fedlas.contract.figures import Estimate, RiskCoverage
from fedlas.contract.report import Report
from fedlas.report.drawing import (
    TITLES,
    Plot,
    Scale,
    area,
    legend,
    line,
    mark,
    model_line,
    opening,
    rectangle,
    text,
)
from fedlas.report.number_words import letter, percent, signed
from fedlas.report.summary import says_and_is_right, served_words

_SIDE = 340
_LEFT = 72
_TOP = 62
_WIDTH = _LEFT + _SIDE + 22
#: The histogram under the diagram, whose base carries the labels of the common axis.
_HISTOGRAM = 78
_GAP = 14
_BASE = _TOP + _SIDE + _GAP + _HISTOGRAM
_HEIGHT = _BASE + 48
_PLOT = Plot(_LEFT, _TOP, _SIDE, _SIDE)
#: Title and sub-title of the file with both diagrams, and the sentence below them.
_HEAD = 66
_FOOT = 30


def reliability_svg(report: Report, *, models: Sequence[str] = ("uploaded", "calibrated")) -> str:
    """An SVG with two reliability diagrams side by side: without bins (CORP) and in bins, all models in each.

    Confidence goes across, accuracy up; lines and points under the diagonal are too sure. In the shade of a
    model's colour lies a calibrated model with its confidences in 95 % of draws. Equal `models` are drawn once.
    """
    shown = _different(report, models)
    title = "Reliability: confidence and accuracy"
    shade = (
        "Shade: where the model of that colour would lie if it were perfectly calibrated "
        f"({100 * report.confidence_level:g} % of draws). Below the diagonal: too sure."
    )
    parts = [
        opening(2 * _WIDTH, _HEAD + _HEIGHT + _FOOT, title, _description(report, shown)),
        text(_LEFT, 34, title, size=18, bold=True),
        text(_LEFT, 56, _says(report, shown[-1]), size=11, colour="soft"),
        *(
            f'<g transform="translate({i * _WIDTH} {_HEAD})">\n{panel(report, shown)}\n</g>'
            for i, panel in enumerate((_corp_panel, _binned_panel))
        ),
        text(_LEFT, _HEAD + _HEIGHT + 14, shade, colour="soft"),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def corp_svg(report: Report, *, models: Sequence[str] = ("uploaded", "calibrated")) -> str:
    return _alone(report, models, "Reliability without bins", _corp_panel)


def binned_svg(report: Report, *, models: Sequence[str] = ("uploaded", "calibrated")) -> str:
    return _alone(report, models, "Reliability in bins", _binned_panel)


def _alone(
    report: Report,
    models: Sequence[str],
    title: str,
    panel: Callable[[Report, Sequence[str]], str],
) -> str:
    shown = _different(report, models)
    start = opening(_WIDTH, _HEIGHT, title, _description(report, shown))
    return f"{start}\n{panel(report, shown)}\n</svg>\n"


def _different(report: Report, models: Sequence[str]) -> list[str]:
    """The models without those whose figures are those of one before them: nothing was changed then."""
    figures = [report.metrics[name] for name in models]
    return [name for i, name in enumerate(models) if figures[i] not in figures[:i]]


def _description(report: Report, models: Sequence[str]) -> str:
    return " ".join(["Accuracy by confidence.", *(_says(report, name) for name in models)])


def _says(report: Report, name: str) -> str:
    gap = report.confidence_gap[name].test
    return f"{TITLES[name]}: {says_and_is_right(gap, f'of {gap.num_rows:,} test rows')}."


def _corp_panel(report: Report, models: Sequence[str]) -> str:
    """Lines of isotonic regression, each before the band in which it would lie if its model were calibrated."""
    bands, lines = [], []
    for name in models:
        corp = report.reliability[name].corp
        band = corp.band
        corners = [*_PLOT.points(band.confidence, band.high), *reversed(_PLOT.points(band.confidence, band.low))]
        bands.append(area(corners, name, opacity=0.2))
        across = chain.from_iterable(zip(corp.starts, corp.ends, strict=True))
        lines.append(model_line(_PLOT.points(across, [a for a in corp.accuracy for _ in range(2)]), name, width=2.2))
    return _panel("Without bins (CORP)", report, models, [*bands, _diagonal(), *lines])


def _binned_panel(report: Report, models: Sequence[str]) -> str:
    """A mark for each bin that holds rows, before the box in which it would lie if its model were calibrated."""
    boxes, marks = [], []
    for name in models:
        curve = report.reliability[name]
        for i, (low, high) in enumerate(zip(curve.band_low, curve.band_high, strict=True)):
            if not (isnan(low) or isnan(high)):
                (x, y), (right, bottom) = _PLOT.place(curve.edges[i], high), _PLOT.place(curve.edges[i + 1], low)
                boxes.append(rectangle(x, y, right - x, max(bottom - y, 2.0), fill=name, opacity=0.2))
        filled = [
            (count, confidence, accuracy)
            for count, confidence, accuracy in zip(curve.counts, curve.mean_confidence, curve.accuracy, strict=True)
            if count
        ]
        marks.append(model_line(_PLOT.points(*zip(*((c, a) for _, c, a in filled), strict=True)), name, width=1.2))
        for count, confidence, accuracy in filled:
            hint = f"{TITLES[name]}, {count:,} rows: confidence {percent(confidence)}, accuracy {percent(accuracy)}"
            size = 3 + 5 * (count / max(1, sum(curve.counts))) ** 0.5
            marks.append(mark(*_PLOT.place(confidence, accuracy), size, name, hint=hint))
    title = f"In {len(report.reliability[models[0]].counts)} bins"
    return _panel(title, report, models, [*boxes, _diagonal(), *marks])


def _panel(title: str, report: Report, models: Sequence[str], drawn: Sequence[str]) -> str:
    return "\n".join(
        [
            text(_LEFT, 20, title, size=14, bold=True),
            legend(models, _LEFT, 42),
            _PLOT.axes("confidence: how sure the model is", "accuracy: share of answers that are right", base=_BASE),
            *drawn,
            _histogram(report, models),
        ]
    )


def _diagonal() -> str:
    return line(_LEFT, _TOP + _SIDE, _LEFT + _SIDE, _TOP, "soft", width=1.2)


def _histogram(report: Report, models: Sequence[str]) -> str:
    """The share of rows in each bin of confidence, the bars of the models side by side."""
    counts = {name: report.reliability[name].counts for name in models}
    shares = {name: [n / max(1, sum(bins)) for n in bins] for name, bins in counts.items()}
    largest = max(max(shares[name]) for name in models) or 1.0
    parts = [line(_LEFT, _BASE, _LEFT + _SIDE, _BASE, "band-edge")]
    for i, name in enumerate(models):
        curve = report.reliability[name]
        for b, share in enumerate(shares[name]):
            if not share:
                continue
            cell = (curve.edges[b + 1] - curve.edges[b]) * _SIDE - 2
            width, height = cell / len(models), max(1.0, _HISTOGRAM * share / largest)
            x = _LEFT + curve.edges[b] * _SIDE + 1 + i * width
            hint = f"{TITLES[name]}: {curve.counts[b]:,} rows ({percent(share)})"
            parts.append(rectangle(x, _BASE - height, width, height, fill=name, opacity=0.75, hint=hint))
    return "\n".join(
        [
            *parts,
            text(_LEFT - 7, _BASE - _HISTOGRAM + 8, percent(largest, 0), size=11, colour="soft", anchor="end"),
            text(_LEFT - 7, _BASE, "0 %", size=11, colour="soft", anchor="end"),
            text(_LEFT - 54, _BASE - _HISTOGRAM / 2, "share of rows", size=11, anchor="middle", turned=True),
        ]
    )


_MARGIN = 16
_UP = 280
_RISK_HEIGHT = _TOP + _UP + 48
#: The band of the first few rows is as wide as the diagram: the scale is set by what follows.
_SCALED_FROM = 0.1
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def risk_coverage_svg(report: Report, *, curves: Sequence[str] = ("uploaded", "calibrated")) -> str:
    """An SVG: coverage across, error rate of the answers up; the last of `curves` has its pointwise band shaded."""
    sections = report.risk_coverage
    plot = Plot(_LEFT, _TOP, _SIDE, _UP, error_scale([sections[name] for name in curves]))
    title = "Error rate among the most confident answers"
    told = [f"{TITLES[name]}: {percent(float(sections[name].error_rate[-1]))} of all answers" for name in curves]
    parts = [
        opening(_WIDTH, _RISK_HEIGHT, title, f"Share of wrong answers by coverage. {'; '.join(told)}."),
        text(_MARGIN, 20, title, size=14, bold=True),
        legend(curves, _MARGIN, 42),
        plot.axes("coverage: share of rows answered", "share of wrong answers", y_label=".3g"),
        band(sections[curves[-1]], curves[-1], plot),
        *(_curve(sections[name], name, plot) for name in curves),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def error_scale(curves: Sequence[RiskCoverage]) -> float:
    """The smallest round share that holds all curves and bands from `_SCALED_FROM` on."""
    highest = max(
        high
        for curve in curves
        for share, high in zip(curve.coverage, curve.high, strict=True)
        if share >= _SCALED_FROM
    )
    return next(step for step in _STEPS if highest <= step + 1e-9)


def band(curve: RiskCoverage, model: str, plot: Plot) -> str:
    corners = [*plot.points(curve.coverage, curve.high), *reversed(plot.points(curve.coverage, curve.low))]
    return area(corners, model, opacity=0.18)


def _curve(curve: RiskCoverage, model: str, plot: Plot) -> str:
    end = plot.place(curve.coverage[-1], curve.error_rate[-1])
    return f"{model_line(plot.points(curve.coverage, curve.error_rate), model)}\n{mark(*end, 4, model)}"


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
_ROWS_WIDTH = 430
_ROWS_LEFT = 16
_ACROSS = 398
_FOREST_TOP = 78
_CELL_WIDTH = 130
_CELL_HEIGHT = 20


def forest_svg(report: Report) -> str:
    """The differences of what is served from the upload, and from the upload with a temperature, with intervals."""
    height, middle = _FOREST_TOP + 58 * len(_METRICS) + 10, _ROWS_LEFT + _ACROSS / 2
    title = "To be served, against the others"
    parts = [
        opening(_ROWS_WIDTH, height, title, _told(report)),
        text(_ROWS_LEFT, 20, title, size=14, bold=True),
        legend(_OTHERS, _ROWS_LEFT, 42),
        text(middle - 8, 66, "← worse", size=11, colour="soft", anchor="end"),
        text(middle + 8, 66, "better →", size=11, colour="soft"),
        line(middle, _FOREST_TOP - 6, middle, height - 8, "soft"),
    ]
    for i, (metric, (name, sign)) in enumerate(_METRICS.items()):
        differences = [_difference(report, metric, other) for other in _OTHERS]
        extent = max(abs(end) for one in differences for end in (one.low, one.high, one.value))
        # Where nothing differs, everything stands in the middle.
        y, scale = _FOREST_TOP + 58 * i, Scale(-(extent or 1), extent or 1, _ROWS_LEFT, _ACROSS)
        end = f"± {100 * extent:.2g} points" if metric == "accuracy" else f"± {extent:.2g}"
        parts += [
            line(_ROWS_LEFT, y - 4, _ROWS_LEFT + _ACROSS, y - 4, "grid"),
            text(_ROWS_LEFT, y + 13, name, bold=True),
            text(_ROWS_LEFT + _ACROSS, y + 13, end, size=11, colour="soft", anchor="end"),
        ]
        for row, (other, one) in enumerate(zip(_OTHERS, differences, strict=True)):
            low, high = sorted((sign * one.low, sign * one.high))
            hint = f"{name}, minus {TITLES[other].lower()}: {_in_words(one)}"
            middle_of_row = y + 26 + 16 * row
            parts += [
                line(scale(low), middle_of_row, scale(high), middle_of_row, other, width=1.8),
                *(
                    line(scale(x), middle_of_row - 4, scale(x), middle_of_row + 4, other, width=1.5)
                    for x in (low, high)
                ),
                mark(scale(sign * one.value), middle_of_row, 4.5, other, hint=hint),
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def interval_cell(estimate: Estimate | None, extent: float) -> str:
    """An interval on a scale from −`extent` to `extent`, for a table's row, whose other cells say its figures."""
    if estimate is None:
        return ""
    scale, y = Scale(-extent, extent, 5, _CELL_WIDTH - 10), _CELL_HEIGHT / 2
    shown = estimate.low > 0 or estimate.high < 0
    return "".join(
        [
            f'<svg class="cell" viewBox="0 0 {_CELL_WIDTH} {_CELL_HEIGHT}" width="{_CELL_WIDTH}" '
            f'height="{_CELL_HEIGHT}" aria-hidden="true" focusable="false">',
            line(scale(0), 0, scale(0), _CELL_HEIGHT, "band-edge"),
            line(scale(estimate.low), y, scale(estimate.high), y, "ink" if shown else "soft", width=2),
            mark(scale(estimate.value), y, 4, "calibrated", hollow=not shown),
            "</svg>",
        ]
    )


def common_extent(estimates: Sequence[Estimate | None]) -> float:
    """The end of a scale that holds the intervals of all rows but the few widest, in round figures."""
    ends = sorted(max(abs(one.low), abs(one.high)) for one in estimates if one is not None)
    return ends[int(0.9 * (len(ends) - 1))] if ends and ends[-1] > 0 else 1.0


def _told(report: Report) -> str:
    parts = (
        f"{name} minus {TITLES[other].lower()}: {_in_words(_difference(report, metric, other))}."
        for metric, (name, _) in _METRICS.items()
        for other in _OTHERS
    )
    return " ".join(parts)


def _in_words(one: Estimate) -> str:
    return f"{signed(one.value)} ({signed(one.low)} to {signed(one.high)})"


def _difference(report: Report, metric: str, other: str) -> Estimate:
    difference = report.differences[f"calibrated_minus_{other}"][metric]
    assert isinstance(difference, Estimate)
    return difference


_MAX_CANDIDATES = 24
_RACE_TOP = 58
_RACE_LEFT = 46
_ROW = 24


def race_svg(report: Report) -> str | None:
    """A row for each candidate with its calibration NLL; None where fewer than two have one.

    A filled mark is a candidate that was scored on all calibration rows, a hollow one was scored on some folds alone;
    letters are those of the table, and what is served is bold.
    """
    nlls = ((one.calibration or {}).get("nll") for one in report.candidates)
    scored = sorted((nll, i) for i, nll in enumerate(nlls) if nll is not None)
    if len(scored) < 2:
        return None
    shown = scored[:_MAX_CANDIDATES]
    height, bottom = _RACE_TOP + _ROW * len(shown) + 24, _RACE_TOP + _ROW * len(shown)
    room = 0.06 * (shown[-1][0] - shown[0][0]) or 0.01
    across = _ROWS_LEFT + _ACROSS - _RACE_LEFT
    scale = Scale(shown[0][0] - room, shown[-1][0] + room, _RACE_LEFT, across)
    served = served_words(report)
    title, more = (
        "Candidates",
        f", the best {_MAX_CANDIDATES} of {len(scored)}" if len(scored) > _MAX_CANDIDATES else "",
    )
    told = f"{len(scored)} candidates by NLL; {letter(shown[0][1])} has the lowest ({shown[0][0]:.4f})."
    parts = [
        opening(_ROWS_WIDTH, height, title, told),
        text(_ROWS_LEFT, 20, title, size=14, bold=True),
        text(_ROWS_LEFT, 40, f"NLL on calibration rows, out of fold: the lower, the better{more}", colour="soft"),
    ]
    for step in scale.steps():
        parts += [
            line(scale(step), _RACE_TOP - 6, scale(step), bottom, "grid"),
            text(scale(step), bottom + 16, f"{step:g}", size=11, colour="soft", anchor="middle"),
        ]
    for row, (nll, i) in enumerate(shown):
        candidate, y = report.candidates[i], _RACE_TOP + _ROW * row + _ROW / 2
        bold, whole = candidate.name in served, candidate.status == "finished"
        parts += [
            text(_ROWS_LEFT, y + 4, letter(i), bold=bold),
            line(_RACE_LEFT, y, _ROWS_LEFT + _ACROSS, y, "grid"),
            mark(scale(nll), y, 5, "calibrated", hollow=not whole, hint=f"{candidate.name}: {nll:.4f}"),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
