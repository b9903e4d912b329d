"""Risk-coverage diagrams: the error rate where only the most confident rows are answered."""

from __future__ import annotations

from collections.abc import Sequence

from fedlas.report.diagrams.drawing import BAND_EDGE, COLOURS, GRID, SOFT, TITLES, line, opening, text
from fedlas.report.document import CalibrationReport, RiskCoverageSection

_WIDTH, _HEIGHT = 560, 420
_LEFT, _TOP, _ACROSS, _UP = 72, 64, 460, 280
#: The band of the first few rows is as wide as the diagram: the scale is set by what follows.
_SCALED_FROM = 0.1
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def risk_coverage_svg(report: CalibrationReport, *, curves: Sequence[str] = ("uploaded", "calibrated")) -> str:
    """An SVG: coverage across, error rate of the answers up.

    The lower, the better; the last of `curves` has its pointwise band shaded.

    Args:
        curves: which of `uploaded`, `temperature`, `calibrated`.
    """
    sections = report.risk_coverage
    top = _scale([sections[name] for name in curves])
    title = "Error rate among the most confident answers"
    parts = [opening(_WIDTH, _HEIGHT, title), text(_LEFT, 26, title, size=14, weight=600), _axes(top)]
    parts.append(_band(sections[curves[-1]], COLOURS[curves[-1]], top))
    parts += [_curve(sections[name], COLOURS[name], top) for name in curves]
    parts.append(_legend(curves, report.confidence_level))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scale(curves: Sequence[RiskCoverageSection]) -> float:
    """The smallest round share that holds all curves and bands from `_SCALED_FROM` on."""
    highest = max(
        high
        for curve in curves
        for share, high in zip(curve.coverage, curve.high, strict=True)
        if share >= _SCALED_FROM
    )
    return next(step for step in _STEPS if highest <= step + 1e-9)


def _place(share: float, error: float, top: float) -> tuple[float, float]:
    return _LEFT + share * _ACROSS, _TOP + (1 - min(error / top, 1.0)) * _UP


def _axes(top: float) -> str:
    parts = []
    for i in range(6):
        x, y = _place(i / 5, i / 5 * top, top)
        parts += [
            line(_LEFT, y, _LEFT + _ACROSS, y, GRID),
            line(x, _TOP, x, _TOP + _UP, GRID),
            text(_LEFT - 9, y + 4, f"{100 * i / 5 * top:.3g} %", size=11, colour=SOFT, anchor="end"),
            text(x, _TOP + _UP + 17, f"{20 * i} %", size=11, colour=SOFT, anchor="middle"),
        ]
    middle = _TOP + _UP / 2
    parts += [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_ACROSS}" height="{_UP}" fill="none" stroke="{BAND_EDGE}"/>',
        text(
            _LEFT + _ACROSS / 2,
            _TOP + _UP + 38,
            "coverage: share of rows answered, the most confident first",
            size=12,
            anchor="middle",
        ),
        text(18, middle, "error rate of the answers", size=12, anchor="middle", turn=(18, middle)),
    ]
    return "\n".join(parts)


def _band(curve: RiskCoverageSection, colour: str, top: float) -> str:
    upper = [_place(share, high, top) for share, high in zip(curve.coverage, curve.high, strict=True)]
    lower = [_place(share, low, top) for share, low in zip(curve.coverage, curve.low, strict=True)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return f'<polygon points="{corners}" fill="{colour}" opacity="0.14"/>'


def _curve(curve: RiskCoverageSection, colour: str, top: float) -> str:
    places = [_place(share, error, top) for share, error in zip(curve.coverage, curve.error_rate, strict=True)]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return (
        f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    )


def _legend(curves: Sequence[str], level: float) -> str:
    parts, x = [], float(_LEFT)
    for name in curves:
        parts += [
            f'<line x1="{x}" y1="{_TOP - 15}" x2="{x + 22}" y2="{_TOP - 15}" stroke="{COLOURS[name]}" '
            'stroke-width="2.5"/>',
            text(x + 28, _TOP - 11, TITLES[name], size=12, colour=SOFT),
        ]
        x += 46 + 6.4 * len(TITLES[name])
    parts.append(text(x, _TOP - 11, f"(shade: {100 * level:g} %)", size=12, colour=SOFT))
    return "\n".join(parts)
