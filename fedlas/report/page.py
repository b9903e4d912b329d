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

from fedlas.documents import Json
from fedlas.gate.non_inferiority import GUARD_NAMES
from fedlas.gate.sentences import FINALIST_NAMES, SCORE_NAMES
from fedlas.report import deployment, sentences
from fedlas.report.added_parts import PART_NAMES
from fedlas.report.diagrams import reliability_panel_svg, risk_coverage_svg
from fedlas.report.document import CalibrationReport
from fedlas.report.loss_comparison import METHOD_NAMES

#: What a candidate trains, and with what, as the page names it.
_SCOPES = {"all": "whole network", "head": "head"}
_OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


def report_html(report: CalibrationReport) -> str:
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
    made.filters.update(number=number, percent=sentences.percent, p_value=p_value, text=text)
    made.tests["at_most"] = at_most
    made.globals.update(
        sentences=sentences,
        deployment=deployment,
        guard_names=GUARD_NAMES,
        finalist_names=FINALIST_NAMES,
        score_names=SCORE_NAMES,
        part_names=PART_NAMES,
        method_names=METHOD_NAMES,
        how_trained=how_trained,
        reliability_panel=reliability_panel_svg,
        risk_coverage=risk_coverage_svg,
    )
    return made


def number(value: float | None, percent: bool = False, signed: bool = False) -> str:
    """Four decimals, or one of a percentage.

    >>> number(0.0123, percent=True, signed=True), number(-0.00001, signed=True), number(None)
    ('+1.2 %', '+0.0000', '–')
    """
    if value is None or not isfinite(value):
        return "–"
    sign = "+" if signed else ""
    # z: what rounds to zero has no sign.
    return f"{100 * value:{sign}z.1f} %" if percent else f"{value:{sign}z.4f}"


def p_value(value: float | None) -> str:
    if value is None:
        return "not tested"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def text(value: Json) -> str:
    """A value of a free document, as JSON unless it is text already."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def how_trained(candidate: Mapping[str, Any]) -> str:
    """What of the network a candidate trained, and with which optimiser; nothing where it trained nothing.

    >>> how_trained({"scope": "all", "hyperparameters": {"optimizer": "adamw", "weight_decay": 0.01}})
    'whole network, AdamW, weight decay 0.01'
    """
    settings = candidate.get("hyperparameters") or {}
    optimizer, decay = settings.get("optimizer"), settings.get("weight_decay")
    parts = [
        _SCOPES.get(candidate.get("scope", ""), ""),
        "" if optimizer is None else _OPTIMIZERS.get(optimizer, str(optimizer)),
        "" if decay is None else f"weight decay {decay:g}",
    ]
    return ", ".join(part for part in parts if part)


def at_most(p: float | None, alpha: float) -> bool:
    """Whether a test was made and shows something at level `alpha`."""
    return p is not None and p <= alpha
