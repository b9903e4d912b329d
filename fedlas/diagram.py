"""Draws reliability diagrams as self-contained SVG from a report's numbers; it computes no metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 920, 640
_SIDE, _LEFTS, _TOP = 350, (82, 520), 112
_HISTOGRAM_TOP, _HISTOGRAM = _TOP + _SIDE + 16, 62

_INK, _SOFT, _GRID, _PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
_BAND, _BAND_EDGE = "#d9dee4", "#9aa5b1"
_COLOURS = {"uploaded": "#d1495b", "temperature": "#b7791f", "calibrated": "#1c7c7d"}
_TITLES = {"uploaded": "As uploaded", "temperature": "With a temperature", "calibrated": "Calibrated"}


def reliability_svg(report: Any, *, panels: tuple[str, str] = ("uploaded", "calibrated")) -> str:
    """An SVG with two reliability diagrams side by side.

    Points are bins: mean confidence across, accuracy up. Where a calibrated model's points would lie in 95 % of draws
    is shaded; points under the diagonal are overconfident.

    Args:
        report: a `CalibrationReport` or its `as_dict()`.
        panels: which two of `uploaded`, `temperature`, `calibrated`.
    """
    content: Mapping[str, Any] = report if isinstance(report, Mapping) else report.as_dict()
    parts = [_frame(content)]
    for name, left in zip(panels, _LEFTS, strict=True):
        parts.append(_panel(name, left, content))
    parts.append(_legend([_COLOURS[name] for name in panels]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _frame(content: Mapping[str, Any]) -> str:
    rows = int(content["num_test_rows"])
    title = "Reliability: how sure the model says it is, and how often it is right"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" role="img" aria-labelledby="title" '
            "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\">",
            f'<title id="title">{title}</title>',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="{_PAPER}"/>',
            _text(_LEFTS[0], 36, title, size=18, weight=600),
            _text(_LEFTS[0], 58, f"{rows:,} test rows, verdict: {content['verdict'].replace('_', '-')}", colour=_SOFT),
        ]
    )


def _panel(name: str, left: int, content: Mapping[str, Any]) -> str:
    curve, colour = content["reliability"][name], _COLOURS[name]
    return "\n".join(
        [
            _text(left, _TOP - 26, _TITLES[name], size=15, weight=600, colour=colour),
            _text(left, _TOP - 9, _numbers(content["metrics"][name]), size=12, colour=_SOFT),
            _axes(left),
            _band(left, curve),
            f'<line x1="{left}" y1="{_TOP + _SIDE}" x2="{left + _SIDE}" y2="{_TOP}" stroke="{_INK}" '
            'stroke-width="1.2" stroke-dasharray="5 4" opacity="0.7"/>',
            _points(left, curve, colour),
            _histogram(left, curve, colour),
        ]
    )


def _numbers(scores: Mapping[str, Mapping[str, float]]) -> str:
    ece = scores["ece"]
    floor = f"noise {100 * ece['floor_low']:.1f}–{100 * ece['floor_high']:.1f} %"
    return (
        f"accuracy {100 * scores['accuracy']['value']:.1f} %   NLL {scores['nll']['value']:.3f}   "
        f"ECE {100 * ece['value']:.1f} % ({floor})"
    )


def _axes(left: int) -> str:
    parts = []
    for i in range(6):
        share = i / 5
        x, y = left + share * _SIDE, _TOP + (1 - share) * _SIDE
        parts += [
            _line(left, y, left + _SIDE, y, _GRID),
            _line(x, _TOP, x, _TOP + _SIDE, _GRID),
            _text(left - 9, y + 4, f"{100 * share:.0f} %", size=11, colour=_SOFT, anchor="end"),
            _text(x, _below() + 16, f"{100 * share:.0f} %", size=11, colour=_SOFT, anchor="middle"),
        ]
    middle = left + _SIDE / 2
    y = _TOP + _SIDE / 2
    parts += [
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{_BAND_EDGE}"/>',
        _text(middle, _below() + 35, "confidence", size=12, anchor="middle"),
        _text(left - 52, y, "share that is right", size=12, anchor="middle", turn=(left - 52, y)),
    ]
    return "\n".join(parts)


def _band(left: int, curve: Mapping[str, Sequence[Any]]) -> str:
    """One shaded box per bin: where a calibrated model's accuracy would lie."""
    boxes = []
    for i, (low, high) in enumerate(zip(curve["band_low"], curve["band_high"], strict=True)):
        if low is None or high is None:
            continue
        x, width = left + curve["edges"][i] * _SIDE, (curve["edges"][i + 1] - curve["edges"][i]) * _SIDE
        height = max((high - low) * _SIDE, 2.0)
        y = _TOP + (1 - (low + high) / 2) * _SIDE - height / 2
        boxes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{_BAND}" '
            f'stroke="{_BAND_EDGE}" stroke-width="0.5"/>'
        )
    return "\n".join(boxes)


def _points(left: int, curve: Mapping[str, Sequence[Any]], colour: str) -> str:
    """Bins joined by a line; the area of a point grows with the share of rows in it."""
    total = max(1, sum(curve["counts"]))
    places, marks = [], []
    for count, confidence, accuracy in zip(curve["counts"], curve["mean_confidence"], curve["accuracy"], strict=True):
        if not count:
            continue
        x, y = left + confidence * _SIDE, _TOP + (1 - accuracy) * _SIDE
        places.append(f"{x:.1f},{y:.1f}")
        radius = 3.2 + 7.0 * (count / total) ** 0.5
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.85" stroke="{_PAPER}" '
            f'stroke-width="1.2"><title>{count:,} rows: confidence {100 * confidence:.1f} %, right '
            f"{100 * accuracy:.1f} %</title></circle>"
        )
    line = f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="1.6" opacity="0.55"/>'
    return "\n".join([line, *marks])


def _histogram(left: int, curve: Mapping[str, Sequence[Any]], colour: str) -> str:
    """Share of rows per bin, under the diagram and on the same axis."""
    largest, total, base = max([*curve["counts"], 1]), max(1, sum(curve["counts"])), _below()
    bars = [_line(left, base, left + _SIDE, base, _BAND_EDGE)]
    for i, count in enumerate(curve["counts"]):
        if not count:
            continue
        x, width = left + curve["edges"][i] * _SIDE, (curve["edges"][i + 1] - curve["edges"][i]) * _SIDE
        height = max(1.0, _HISTOGRAM * count / largest)
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{base - height:.1f}" width="{width - 2:.1f}" height="{height:.1f}" '
            f'fill="{colour}" opacity="0.45"><title>{count:,} rows ({100 * count / total:.1f} %)</title></rect>'
        )
    label = f"{100 * largest / total:.0f} %"
    bars.append(_text(left - 9, base - _HISTOGRAM + 9, label, size=11, colour=_SOFT, anchor="end"))
    bars.append(_text(left - 9, base - 2, "rows", size=11, colour=_SOFT, anchor="end"))
    return "\n".join(bars)


def _legend(colours: Sequence[str]) -> str:
    y, x = _HEIGHT - 20, _LEFTS[0]
    dots = "".join(
        f'<circle cx="{x + 6 + 14 * i}" cy="{y - 4}" r="5" fill="{c}" fill-opacity="0.85"/>'
        for i, c in enumerate(colours)
    )
    return "\n".join(
        [
            dots,
            _text(x + 32, y, "a bin of rows (larger: more rows)", size=12, colour=_SOFT),
            f'<rect x="{x + 254}" y="{y - 11}" width="22" height="13" fill="{_BAND}" stroke="{_BAND_EDGE}" '
            'stroke-width="0.5"/>',
            _text(x + 284, y, "where bins of a calibrated model lie (95 %)", size=12, colour=_SOFT),
            f'<line x1="{x + 562}" y1="{y - 4}" x2="{x + 588}" y2="{y - 4}" stroke="{_INK}" stroke-width="1.2" '
            'stroke-dasharray="5 4" opacity="0.7"/>',
            _text(x + 596, y, "perfect; below it: overconfident", size=12, colour=_SOFT),
        ]
    )


def _below() -> int:
    """The base line of the histogram, which carries the axis labels."""
    return _HISTOGRAM_TOP + _HISTOGRAM


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(
    x: float,
    y: float,
    content: str,
    *,
    size: int = 13,
    colour: str = _INK,
    anchor: str = "start",
    weight: int = 400,
    turn: tuple[float, float] | None = None,
) -> str:
    rotated = f' transform="rotate(-90 {turn[0]:.1f} {turn[1]:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}" xml:space="preserve"{rotated}>{escape(content)}</text>'
    )
