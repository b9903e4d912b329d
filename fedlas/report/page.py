"""The report as one self-contained HTML page: the templates, and the filters that write numbers in them.

The page shows the numbers of report.json. It holds no script and no reference to anything outside, and the templates
escape every text, since clients choose the names of classes, slices and files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedlas.contract.report import CandidateSummary, Report
from fedlas.documents import Json
from fedlas.gate.gate import FINALIST_NAMES, SCORE_NAMES
from fedlas.gate.guards import GUARD_NAMES
from fedlas.report import deployment, sections, summary
from fedlas.report.deployment import allowed
from fedlas.report.diagrams import (
    binned_svg,
    common_extent,
    corp_svg,
    forest_svg,
    interval_cell,
    race_svg,
    risk_coverage_svg,
)
from fedlas.report.number_words import as_sentence, exact, letter, percent, signed
from fedlas.report.parts import METHOD_NAMES, PART_NAMES
from fedlas.report.provenance import moment
from fedlas.report.recipe import OPTIMIZERS
from fedlas.report.summary import headline, not_shown, served_words

_SCOPES = {"all": "whole network", "head": "head"}
_MAX_PARTS = 20


def report_html(report: Report) -> str:
    """One HTML file with everything that the report holds, verdict first."""
    return environment().get_template("report.html.jinja").render(report=report)


@cache
def environment() -> Environment:
    """The templates of `fedlas/report/templates`; an unknown name in one of them is an error."""
    made = Environment(
        loader=PackageLoader("fedlas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(
        number=number,
        percent=percent,
        exact=exact,
        confidence=confidence,
        text=text,
        in_words=in_words,
        as_sentence=as_sentence,
    )
    made.tests["at_most"] = at_most
    made.globals.update(
        sentences=summary,
        sections=sections,
        deployment=deployment,
        title_of=title_of,
        headline=headline,
        moment=moment,
        guard_names=GUARD_NAMES,
        finalist_names=FINALIST_NAMES,
        score_names=SCORE_NAMES,
        part_names=PART_NAMES,
        method_names=METHOD_NAMES,
        how_trained=how_trained,
        letter=letter,
        served_words=served_words,
        not_shown=not_shown,
        allowed=allowed,
        binned=binned_svg,
        corp=corp_svg,
        forest=forest_svg,
        race=race_svg,
        risk_coverage=risk_coverage_svg,
        interval_cell=interval_cell,
        common_extent=common_extent,
    )
    return made


def number(value: float | None, percent: bool = False, difference: bool = False, unit: bool = True) -> str:
    """Four decimals, or one of a percentage; a difference has its sign, and that of two percentages is in points.

    >>> number(0.0123, percent=True, difference=True), number(-0.00001, difference=True), number(None)
    ('+1.2 points', '+0.0000', '–')
    >>> number(0.0123, percent=True), number(-0.0123), number(-0.0123, percent=True, difference=True, unit=False)
    ('1.2 %', '−0.0123', '−1.2')
    """
    if value is None or not isfinite(value):
        return "–"
    scaled, digits = (100 * value, 1) if percent else (value, 4)
    shown = signed(scaled, digits) if difference else signed(scaled, digits).removeprefix("+")
    return f"{shown} {'points' if difference else '%'}" if percent and unit else shown


def title_of(report: Report) -> str:
    name = None if report.subject is None else report.subject.title
    return "Calibration report" if name is None else f"Calibration report of {name}"


def confidence(level: float) -> str:
    """The confidence of an interval in percent, with as many nines as it takes to be below 100.

    >>> confidence(0.925), confidence(0.99999)
    ('92.5 %', '99.999 %')
    """
    digits = next((n for n in range(2, 12) if round(100 * level, n) < 100), 12)
    return f"{round(100 * level, digits):g} %" if digits == 2 else f"{100 * level:.{digits}f} %"


def in_words(value: Json) -> str:
    """A figure, name, list or mapping of a notice's evidence; long ones are cut, since report.json has them whole.

    >>> in_words({"cat": "dog", "dog": "cat"}), in_words([0.123456, None, True])
    ('cat → dog, dog → cat', '0.1235, –, yes')
    """
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str | int):
        return str(value) or "(empty)"
    parts = (
        [f"{name} → {in_words(part)}" for name, part in value.items()]
        if isinstance(value, Mapping)
        else [f"({in_words(part)})" if isinstance(part, list | tuple) else in_words(part) for part in value]
    )
    more = f" … ({len(parts):,} in all)" if len(parts) > _MAX_PARTS else ""
    return f"{', '.join(parts[:_MAX_PARTS])}{more}"


def text(value: Json) -> str:
    """A value of a free document, as JSON unless it is text already."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def how_trained(candidate: CandidateSummary) -> str:
    """Part of the network that a candidate trained, and its optimiser; empty where it trained nothing."""
    settings: dict[str, Any] = candidate.hyperparameters
    optimizer, decay = settings.get("optimizer"), settings.get("weight_decay")
    parts = [
        _SCOPES.get(candidate.scope, ""),
        "" if optimizer is None else OPTIMIZERS.get(optimizer, str(optimizer)),
        "" if decay is None else f"weight decay {decay:g}",
    ]
    return ", ".join(part for part in parts if part)


def at_most(p: float | None, alpha: float) -> bool:
    """True where a test was made and is significant at level `alpha`."""
    return p is not None and p <= alpha
