"""The report of a score for people: its curve as a picture, its thresholds as a table, and a page that stands alone."""

from __future__ import annotations

from fedlas.contract.scores import ScoreReport
from fedlas.report.drawing import Plot, Scale, area, line, model_line, opening, rectangle, text
from fedlas.report.number_words import exact, percent
from fedlas.report.page import environment

_PLOT = Plot(left=64, top=62, across=460, up=260)


def thresholds(report: ScoreReport, *, few: bool = False) -> list[dict[str, str | bool]]:
    """By ascending score all that were counted, or those nearest to tenths of the rows, and the promised one.

    Each has the words of a table's row: `score`, the `share` of `rows` at or beyond it, `errors` among them, and their
    `bound`, which holds for this threshold alone; and whether it is `promised`.
    """
    promise, total = report.promise, report.promise.num_rows
    figures: dict[float, tuple[float, float, float | None]] = {}
    if promise.threshold is not None:  # its rank need not be among those of the picture
        figures[promise.threshold] = promise.accepted_rows or 0, promise.errors or 0, promise.max_error
    figures |= {score: (rows, errors, bound) for score, rows, errors, bound in report.counts}
    shown = sorted(figures)
    if few and shown:
        near = {min(shown, key=lambda score: abs(figures[score][0] - i * total / 10)) for i in range(1, 11)}
        shown = [score for score in shown if score in near or score == promise.threshold]
    return [
        {
            "score": exact(score),
            "share": percent(rows / total),
            "rows": f"{rows:,.0f}",
            "errors": f"{errors:,.0f}",
            "bound": percent(bound),
            "promised": score == promise.threshold,
        }
        for score, (rows, errors, bound) in ((score, figures[score]) for score in shown)
    ]


def score_svg(report: ScoreReport) -> str:
    """An SVG: score across; up the probability of being right with its band, and the share accepted from there on.

    The hidden group `data-dragged` is a second threshold, which a page moves: it has the ends of the scale.
    """
    promise, first, last = report.promise, report.curve[0].score, report.curve[-1].score
    shifts = (0.0,) if first < last else (-0.5, 0.5)  # a score that means nothing has one knot
    x, y = Scale(first + shifts[0], last + shifts[-1], _PLOT.left, _PLOT.across), Scale(0, 1, _PLOT.bottom, -_PLOT.up)
    left, top, right, bottom = _PLOT.left, _PLOT.top, _PLOT.left + _PLOT.across, _PLOT.bottom
    curve = [one.changed(score=one.score + shift) for one in report.curve for shift in shifts]

    def points(places: list[tuple[float, float]]) -> list[str]:
        return [f"{x(score):.1f},{y(share):.1f}" for score, share in sorted(places)]

    parts = [
        opening(right + 22, bottom + 50, "Probability of being right by score", promise.sentence),
        model_line([f"{left},20", f"{left + 22},20"], "calibrated", width=2.4),
        text(left + 29, 24, f"probability of being right, with its {100 * report.band:g} % band"),
        model_line([f"{left},42", f"{left + 22},42"], "uploaded"),
        text(left + 29, 46, "share of rows accepted from this score on"),
        *(line(x(step), top, x(step), bottom, "grid") for step in x.steps()),
        *(text(x(step), bottom + 16, f"{step:g}", size=11, colour="soft", anchor="middle") for step in x.steps()),
        *(line(left, y(i / 5), right, y(i / 5), "grid") for i in range(6)),
        *(text(left - 7, y(i / 5) + 4, f"{20 * i} %", size=11, colour="soft", anchor="end") for i in range(6)),
        rectangle(left, top, right - left, bottom - top, stroke="band-edge"),
        text(
            (left + right) / 2,
            bottom + 38,
            "score" if report.influence is None else "probability by all signals",
            anchor="middle",
        ),
        area(
            [*points([(one.score, one.low) for one in curve]), *points([(one.score, one.high) for one in curve])[::-1]],
            "calibrated",
            opacity=0.18,
        ),
        model_line(points([(score, rows / promise.num_rows) for score, rows, *_ in report.counts]), "uploaded"),
        model_line(points([(one.score, one.probability) for one in curve]), "calibrated", width=2.4),
    ]
    if promise.threshold is not None:
        at, words = x(promise.threshold), f"{exact(promise.threshold)}: {percent(promise.accepted_share)} accepted"
        side, anchor = (6, "start") if at < (left + right) / 2 else (-6, "end")
        parts += [
            line(at, top, at, bottom, "ink", width=1.8),
            text(at + side, bottom - 8, words, bold=True, anchor=anchor),
        ]
    dragged = line(0, top, 0, bottom, "ink", width=1.8, dashes="3 3")
    ends = f"{x.low!r} {x.high!r} {x.left} {x.across}"
    return "\n".join([*parts, f'<g data-dragged="{ends}" visibility="hidden">{dragged}</g>', "</svg>"]) + "\n"


def score_html(report: ScoreReport) -> str:
    """One HTML file with everything that the report holds, its promise first."""
    few, drawing = thresholds(report, few=True), score_svg(report)
    return environment().get_template("scores/page.html.jinja").render(report=report, drawing=drawing, few=few)
