"""Reliability diagrams as self-contained SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from fedlas.metrics import BinnedEstimate
from fedlas.metrics.evaluate import Estimates
from fedlas.report.diagrams.drawing import BAND, BAND_EDGE, COLOURS, INK, PAPER, SOFT, TITLES, Plot, line, opening, text
from fedlas.report.document import CalibrationReport, Reliability

_WIDTH, _HEIGHT = 920, 640
_SIDE, _LEFTS, _TOP = 350, (82, 520), 112
_HISTOGRAM = 62
#: The base line of the histogram, which carries the axis labels.
_BASE = _TOP + _SIDE + 16 + _HISTOGRAM


def reliability_svg(report: CalibrationReport, *, panels: tuple[str, str] = ("uploaded", "calibrated")) -> str:
    """An SVG with two reliability diagrams side by side.

    Points are bins: mean confidence across, accuracy up. The shaded band holds a calibrated model's points in 95 % of
    draws; points under the diagonal are overconfident.

    Args:
        panels: which two of `uploaded`, `temperature`, `calibrated`.
    """
    parts = [_frame(report)]
    for name, left in zip(panels, _LEFTS, strict=True):
        parts.append(_panel(name, left, report))
    parts.append(_legend([COLOURS[name] for name in panels], report.confidence_level))
    return "\n".join([*parts, "</svg>"]) + "\n"


def reliability_panel_svg(report: CalibrationReport, name: str) -> str:
    """One reliability diagram, of `uploaded`, `temperature` or `calibrated`, without title and legend: for a page."""
    width, cut = _LEFTS[0] + _SIDE + 24, _TOP - 50
    start = opening(width, _HEIGHT - cut - 42, f"Reliability: {TITLES[name]}")
    panel = _panel(name, _LEFTS[0], report)
    return f'{start}\n<g transform="translate(0 {-cut})">\n{panel}\n</g>\n</svg>\n'


def _plot(left: int) -> Plot:
    return Plot(left, _TOP, _SIDE, _SIDE)


def _frame(report: CalibrationReport) -> str:
    title = "Reliability: confidence and accuracy"
    judged = f"{report.num_test_rows:,} test rows, verdict: {report.verdict.replace('_', '-')}"
    return "\n".join(
        [
            opening(_WIDTH, _HEIGHT, title),
            text(_LEFTS[0], 36, title, size=18, weight=600),
            text(_LEFTS[0], 58, judged, colour=SOFT),
        ]
    )


def _panel(name: str, left: int, report: CalibrationReport) -> str:
    curve, colour = report.reliability[name], COLOURS[name]
    return "\n".join(
        [
            text(left, _TOP - 26, TITLES[name], size=15, weight=600, colour=colour),
            text(left, _TOP - 9, _numbers(report.metrics[name]), size=12, colour=SOFT),
            _plot(left).axes("confidence", "accuracy", below=(_BASE + 16, _BASE + 35), before=left - 52),
            _band(left, curve),
            f'<line x1="{left}" y1="{_TOP + _SIDE}" x2="{left + _SIDE}" y2="{_TOP}" stroke="{INK}" '
            'stroke-width="1.2" stroke-dasharray="5 4" opacity="0.7"/>',
            _points(left, curve, colour),
            _histogram(left, curve, colour),
        ]
    )


def _numbers(scores: Estimates) -> str:
    ece = scores["ece"]
    assert isinstance(ece, BinnedEstimate)
    floor = f"noise {100 * ece.floor_low:.1f}–{100 * ece.floor_high:.1f} %"
    return (
        f"accuracy {100 * scores['accuracy'].value:.1f} %   NLL {scores['nll'].value:.3f}   "
        f"ECE {100 * ece.value:.1f} % ({floor})"
    )


def _band(left: int, curve: Reliability) -> str:
    """One shaded box per bin: where a calibrated model's accuracy would lie."""
    boxes = []
    for i, (low, high) in enumerate(zip(curve.band_low, curve.band_high, strict=True)):
        if isnan(low) or isnan(high):
            continue
        x, width = left + curve.edges[i] * _SIDE, (curve.edges[i + 1] - curve.edges[i]) * _SIDE
        height = max((high - low) * _SIDE, 2.0)
        y = _TOP + (1 - (low + high) / 2) * _SIDE - height / 2
        boxes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{BAND}" '
            f'stroke="{BAND_EDGE}" stroke-width="0.5"/>'
        )
    return "\n".join(boxes)


def _points(left: int, curve: Reliability, colour: str) -> str:
    """Bins joined by a line; the area of a point grows with the share of rows in it."""
    total = max(1, sum(curve.counts))
    places, marks = [], []
    for count, confidence, accuracy in zip(curve.counts, curve.mean_confidence, curve.accuracy, strict=True):
        if not count:
            continue
        x, y = _plot(left).place(confidence, accuracy)
        places.append(f"{x:.1f},{y:.1f}")
        radius = 3.2 + 7.0 * (count / total) ** 0.5
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.85" stroke="{PAPER}" '
            f'stroke-width="1.2"><title>{count:,} rows: confidence {100 * confidence:.1f} %, accuracy '
            f"{100 * accuracy:.1f} %</title></circle>"
        )
    line = f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="1.6" opacity="0.55"/>'
    return "\n".join([line, *marks])


def _histogram(left: int, curve: Reliability, colour: str) -> str:
    """Share of rows per bin, under the diagram and on the same axis."""
    largest, total, base = max([*curve.counts, 1]), max(1, sum(curve.counts)), _BASE
    bars = [line(left, base, left + _SIDE, base, BAND_EDGE)]
    for i, count in enumerate(curve.counts):
        if not count:
            continue
        x, width = left + curve.edges[i] * _SIDE, (curve.edges[i + 1] - curve.edges[i]) * _SIDE
        height = max(1.0, _HISTOGRAM * count / largest)
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{base - height:.1f}" width="{width - 2:.1f}" height="{height:.1f}" '
            f'fill="{colour}" opacity="0.45"><title>{count:,} rows ({100 * count / total:.1f} %)</title></rect>'
        )
    label = f"{100 * largest / total:.0f} %"
    bars.append(text(left - 9, base - _HISTOGRAM + 9, label, size=11, colour=SOFT, anchor="end"))
    bars.append(text(left - 9, base - 2, "rows", size=11, colour=SOFT, anchor="end"))
    return "\n".join(bars)


def _legend(colours: Sequence[str], level: float) -> str:
    y, x = _HEIGHT - 20, _LEFTS[0]
    dots = "".join(
        f'<circle cx="{x + 6 + 14 * i}" cy="{y - 4}" r="5" fill="{c}" fill-opacity="0.85"/>'
        for i, c in enumerate(colours)
    )
    return "\n".join(
        [
            dots,
            text(x + 32, y, "a bin of rows (larger: more rows)", size=12, colour=SOFT),
            f'<rect x="{x + 254}" y="{y - 11}" width="22" height="13" fill="{BAND}" stroke="{BAND_EDGE}" '
            'stroke-width="0.5"/>',
            text(x + 284, y, f"where bins of a calibrated model lie ({100 * level:g} %)", size=12, colour=SOFT),
            f'<line x1="{x + 562}" y1="{y - 4}" x2="{x + 588}" y2="{y - 4}" stroke="{INK}" stroke-width="1.2" '
            'stroke-dasharray="5 4" opacity="0.7"/>',
            text(x + 596, y, "perfect; below it: overconfident", size=12, colour=SOFT),
        ]
    )
