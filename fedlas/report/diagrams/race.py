"""The race as a picture: candidates by their NLL on calibration rows, the best first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlas.report.diagrams.drawing import line, mark, opening, shortened, text
from fedlas.report.diagrams.scale import Scale
from fedlas.report.document import CalibrationReport

#: Candidates that are drawn, and letters of their names.
_MOST, _LETTERS = 24, 52
_WIDTH, _LEFT, _ACROSS, _TOP, _ROW = 430, 16, 398, 58, 34


def race_svg(report: CalibrationReport) -> str | None:
    """A row for each candidate with its calibration NLL; None where fewer than two have one.

    A filled mark is a candidate that was scored on all calibration rows, a hollow one was scored on some folds alone;
    what was served is bold.
    """
    scored = sorted((nll, i) for i, one in enumerate(report.candidates) if (nll := _nll(one)) is not None)
    if len(scored) < 2:
        return None
    shown = scored[:_MOST]
    height, bottom = _TOP + _ROW * len(shown) + 40, _TOP + _ROW * len(shown)
    room = 0.06 * (shown[-1][0] - shown[0][0]) or 0.01
    scale = Scale(shown[0][0] - room, shown[-1][0] + room, _LEFT, _ACROSS)
    best = report.candidates[shown[0][1]].get("name", "")
    title, more = "The race", f", the best {_MOST} of {len(scored)}" if len(scored) > _MOST else ""
    parts = [
        opening(_WIDTH, height, title, f"{len(scored)} candidates by NLL; the lowest has {best} ({shown[0][0]:.4f})."),
        text(_LEFT, 20, title, size=14, bold=True),
        text(_LEFT, 40, f"NLL on calibration rows, out of fold: the lower, the better{more}", colour="soft"),
    ]
    for step in scale.steps():
        parts.append(line(scale(step), _TOP - 6, scale(step), bottom, "grid"))
        parts.append(text(scale(step), bottom + 16, f"{step:g}", size=11, colour="soft", anchor="middle"))
    parts.append(text(_LEFT + _ACROSS / 2, bottom + 34, "NLL", anchor="middle"))
    winner = (report.recipe.get("winner") or {}).get("name")
    for row, (nll, i) in enumerate(shown):
        candidate, y = report.candidates[i], _TOP + _ROW * row
        name, whole = str(candidate.get("name", "")), candidate.get("status") == "finished"
        parts += [
            text(_LEFT, y + 9, shortened(name, _LETTERS), size=11, bold=name == winner),
            line(_LEFT, y + 20, _LEFT + _ACROSS, y + 20, "grid"),
            mark(scale(nll), y + 20, 5, "calibrated", hollow=not whole, hint=f"{name}: {nll:.4f}"),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _nll(candidate: Mapping[str, Any]) -> float | None:
    found: float | None = (candidate.get("calibration") or {}).get("nll")
    return found
