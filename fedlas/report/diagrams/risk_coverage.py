"""Risk-coverage diagrams: the error rate where only the most confident rows are answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from fedlas.report.diagrams.drawing import TITLES, Plot, area, legend, mark, model_line, opening, text
from fedlas.report.document import CalibrationReport, RiskCoverageSection
from fedlas.report.wording import percent

_MARGIN, _LEFT, _TOP, _ACROSS, _UP = 16, 72, 62, 340, 280
_WIDTH, _HEIGHT = _LEFT + _ACROSS + 22, _TOP + _UP + 48
#: The band of the first few rows is as wide as the diagram: the scale is set by what follows.
_SCALED_FROM = 0.1
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


class Band(Protocol):
    """The pointwise band of a curve, as a report has it in memory or in its file."""

    @property
    def coverage(self) -> Iterable[float]: ...

    @property
    def low(self) -> Iterable[float]: ...

    @property
    def high(self) -> Iterable[float]: ...


def risk_coverage_svg(report: CalibrationReport, *, curves: Sequence[str] = ("uploaded", "calibrated")) -> str:
    """An SVG: coverage across, error rate of the answers up.

    The lower, the better; the last of `curves` has its pointwise band shaded.

    Args:
        curves: which of `uploaded`, `temperature`, `calibrated`.
    """
    sections = report.risk_coverage
    plot = Plot(_LEFT, _TOP, _ACROSS, _UP, error_scale([sections[name] for name in curves]))
    title = "Error rate among the most confident answers"
    told = [f"{TITLES[name]}: {percent(float(sections[name].error_rate[-1]))} of all answers" for name in curves]
    parts = [
        opening(_WIDTH, _HEIGHT, title, f"Share of wrong answers by coverage. {'; '.join(told)}."),
        text(_MARGIN, 20, title, size=14, bold=True),
        legend(curves, _MARGIN, 42),
        plot.axes("coverage: share of rows answered", "share of wrong answers", y_label=".3g"),
        band(sections[curves[-1]], curves[-1], plot),
        *(_curve(sections[name], name, plot) for name in curves),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def error_scale(curves: Sequence[Band]) -> float:
    """The smallest round share that holds all curves and bands from `_SCALED_FROM` on."""
    highest = max(
        high
        for curve in curves
        for share, high in zip(curve.coverage, curve.high, strict=True)
        if share >= _SCALED_FROM
    )
    return next(step for step in _STEPS if highest <= step + 1e-9)


def band(curve: Band, model: str, plot: Plot) -> str:
    """The area between the limits of a curve, in the colour of its model."""
    corners = [*plot.points(curve.coverage, curve.high), *reversed(plot.points(curve.coverage, curve.low))]
    return area(corners, model, opacity=0.18)


def _curve(curve: RiskCoverageSection, model: str, plot: Plot) -> str:
    end = plot.place(curve.coverage[-1], curve.error_rate[-1])
    return f"{model_line(plot.points(curve.coverage, curve.error_rate), model)}\n{mark(*end, 4, model)}"
