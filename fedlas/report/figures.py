"""Numbers as the page writes them, with interval or noise below; it knows no report."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.report.html import Markup, element, join


def figure(estimate: Mapping[str, float | None] | None, *, as_percent: bool, signed: bool = False) -> Markup:
    """A figure with its interval or its noise floor below it."""
    if not estimate or estimate["value"] is None:
        return join("–")

    def write(value: float | None) -> str:
        if value is None:
            return "–"
        sign = "+" if signed else ""
        # z: what rounds to zero has no sign.
        return f"{100 * value:{sign}z.1f} %" if as_percent else f"{value:{sign}z.4f}"

    if "floor_low" in estimate:
        below = f"noise {write(estimate['floor_low'])} to {write(estimate['floor_high'])}"
    else:
        below = f"{write(estimate['low'])} to {write(estimate['high'])}"
    return join([write(estimate["value"]), element("span", below, class_="range")])


def p_value(value: float | None) -> str:
    if value is None:
        return "not tested"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
