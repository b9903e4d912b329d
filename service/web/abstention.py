"""Abstention in figures: what a threshold on the confidence answers, how much of that is wrong, and what it costs.

The figures are those of the job's test rows, read off the risk-coverage curve of its report, on which the threshold is
drawn; what can be promised comes from the guarantee rows, which the model itself carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot

from fedlas.contract.figures import Estimate, RiskCoverage
from fedlas.contract.report import Report
from fedlas.guarantees import Guarantees, Unreachable
from fedlas.metrics.statistics import wilson
from fedlas.report.deployment import ERROR_LEVELS
from fedlas.report.diagrams import band, error_scale
from fedlas.report.drawing import Plot, line, mark, model_line, opening
from fedlas.report.number_words import percent

#: The number of rows that costs are for.
ROWS = 1000
#: Coverages of the table, about.
_IN_TABLE = (1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
#: The curve of a report is rounded to a millionth.
_ROUNDING = 5e-7
#: Measures of the drawing, in pixels.
_LEFT = 64
_TOP = 12
_ACROSS = 440
_UP = 200
_WIDTH = _LEFT + _ACROSS + 24
_HEIGHT = _TOP + _UP + 46


@dataclass(frozen=True)
class Costs:
    """The costs of a wrong answer, and of a row that is left to somebody else; in any unit."""

    error: float = 10
    abstention: float = 1


@dataclass(frozen=True)
class Tradeoff:
    """A threshold: the share of rows that it answers, the error rate of these answers, and the cost of 1,000 rows.

    Each interval holds for this threshold alone. Without answers there is no error rate.
    """

    threshold: float
    coverage: Estimate
    error_rate: Estimate | None
    cost: Estimate


@dataclass(frozen=True)
class Promise:
    """An error rate, and the threshold that keeps it, with the share of guarantee rows that it answers.

    Without such a threshold, `reachable` is the smallest error rate that has one.
    """

    level: float
    threshold: float | None
    answered: float | None
    reachable: float | None


def tradeoff(report: Report, threshold: float, costs: Costs) -> Tradeoff:
    """The nearest point of the curve at which nothing below the threshold is answered."""
    curve = report.risk_coverage.calibrated
    reached = [number for number, least in enumerate(curve.thresholds) if least >= threshold - _ROUNDING]
    if not reached:
        return _priced(report, threshold, 0.0, None, costs)
    nearest = reached[-1]
    error_rate = Estimate(value=curve.error_rate[nearest], low=curve.low[nearest], high=curve.high[nearest])
    return _priced(report, threshold, curve.coverage[nearest], error_rate, costs)


def table(report: Report, costs: Costs) -> Iterator[Tradeoff]:
    """Thresholds at rounded-down coverages, the lowest first."""
    curve = report.risk_coverage.calibrated
    points = [max((n for n, c in enumerate(curve.coverage) if c <= share), default=0) for share in _IN_TABLE]
    for number in dict.fromkeys(points):
        yield tradeoff(report, curve.thresholds[number], costs)


def cheapest(report: Report, costs: Costs) -> Tradeoff:
    """The threshold at which the test rows cost least; of several the one that answers most."""
    curve = report.risk_coverage.calibrated
    points = reversed([*zip(curve.thresholds, curve.coverage, curve.error_rate, strict=True)])
    priced = [(c * wrong * costs.error + (1 - c) * costs.abstention, threshold) for threshold, c, wrong in points]
    least, threshold = min(priced, key=lambda one: one[0])
    return tradeoff(report, 1.0 if costs.abstention < least else threshold, costs)


def promises(guarantees: Guarantees | None) -> Sequence[Promise]:
    """Promises for the error rates that reports list."""
    return [] if guarantees is None else [_promise(guarantees, level) for level in ERROR_LEVELS]


def _promise(guarantees: Guarantees, level: float) -> Promise:
    try:
        threshold = guarantees.threshold_for(level)
    except Unreachable as reason:
        return Promise(level, None, None, reason.reachable)
    return Promise(level, threshold, guarantees.answered_share(threshold), None)


def _priced(report: Report, threshold: float, coverage: float, error_rate: Estimate | None, costs: Costs) -> Tradeoff:
    wrong = 0.0 if error_rate is None else coverage * error_rate.value
    cost = _cost(_share(report, wrong), _share(report, 1 - coverage), costs)
    return Tradeoff(threshold, _share(report, coverage), error_rate, cost)


def _share(report: Report, value: float) -> Estimate:
    """A share of the test rows; the rows of a group count as one, since they may share one fate."""
    low, high = wilson(value, report.num_groups or report.num_test_rows, report.confidence_level)
    return Estimate(value=value, low=float(low), high=float(high))


def _cost(wrong: Estimate, abstained: Estimate, costs: Costs) -> Estimate:
    """The cost of 1,000 rows: the limits of both shares, combined by MOVER (Zou and Donner 2008).

    The two shares exclude each other, so that they vary against each other; taking them for independent is cautious.
    """
    parts = [(wrong, ROWS * costs.error), (abstained, ROWS * costs.abstention)]
    value = sum(cost * share.value for share, cost in parts)
    below = hypot(*(cost * (share.value - share.low) for share, cost in parts))
    above = hypot(*(cost * (share.high - share.value) for share, cost in parts))
    return Estimate(value=value, low=max(0.0, value - below), high=value + above)


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
