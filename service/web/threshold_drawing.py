"""The risk-coverage curve of what is served, with the threshold that was chosen on it."""

from __future__ import annotations

from fedlas.report.diagrams.drawing import Plot, line, mark, model_line, opening
from fedlas.report.diagrams.risk_coverage import band, error_scale
from fedlas.report.wording import percent
from service.web.abstention import Tradeoff
from service.web.report_excerpts import RiskCoverage

_LEFT, _TOP, _ACROSS, _UP = 64, 12, 440, 200
_WIDTH, _HEIGHT = _LEFT + _ACROSS + 24, _TOP + _UP + 46


def threshold_svg(curve: RiskCoverage, chosen: Tradeoff) -> str:
    """An SVG: coverage across, error rate of the answers up, its pointwise band, and a mark where the threshold is."""
    plot = Plot(_LEFT, _TOP, _ACROSS, _UP, error_scale([curve]))
    told = f"All rows: {percent(curve.error_rate[-1])} of the answers are wrong."
    parts = [
        opening(_WIDTH, _HEIGHT, "Share of wrong answers by coverage", told),
        plot.axes("coverage: share of rows answered", "wrong answers", y_label=".3g"),
        band(curve, "calibrated", plot),
        model_line(plot.points(curve.coverage, curve.error_rate), "calibrated"),
    ]
    at = chosen.coverage.value or 0.0
    x, y = plot.place(at, 0.0 if chosen.error_rate is None else chosen.error_rate.value or 0.0)
    parts += [line(x, plot.top, x, plot.bottom, "ink", dashes="3 3"), mark(x, y, 5, "calibrated")]
    return "\n".join([*parts, "</svg>"])
