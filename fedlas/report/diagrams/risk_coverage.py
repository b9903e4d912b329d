"""Risk-coverage diagrams: the error rate where only the most confident rows are answered."""

from __future__ import annotations

from collections.abc import Sequence

from fedlas.report.diagrams.drawing import COLOURS, SOFT, TITLES, Plot, opening, text
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
    plot = Plot(_LEFT, _TOP, _ACROSS, _UP, _scale([sections[name] for name in curves]))
    title = "Error rate among the most confident answers"
    axes = plot.axes(
        "coverage: share of rows answered, the most confident first",
        "error rate of the answers",
        below=(_TOP + _UP + 17, _TOP + _UP + 38),
        before=18,
        y_label=".3g",
    )
    parts = [opening(_WIDTH, _HEIGHT, title), text(_LEFT, 26, title, size=14, weight=600), axes]
    parts.append(_band(sections[curves[-1]], COLOURS[curves[-1]], plot))
    parts += [_curve(sections[name], COLOURS[name], plot) for name in curves]
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


def _band(curve: RiskCoverageSection, colour: str, plot: Plot) -> str:
    corners = [*plot.points(curve.coverage, curve.high), *reversed(plot.points(curve.coverage, curve.low))]
    return f'<polygon points="{" ".join(corners)}" fill="{colour}" opacity="0.14"/>'


def _curve(curve: RiskCoverageSection, colour: str, plot: Plot) -> str:
    x, y = plot.place(curve.coverage[-1], curve.error_rate[-1])
    joined = " ".join(plot.points(curve.coverage, curve.error_rate))
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
