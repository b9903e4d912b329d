"""Diagrams of a report as self-contained SVG: reliability, risk-coverage, metrics with their intervals, the race."""

from __future__ import annotations

from fedlas.report.diagrams.curves import binned_svg, corp_svg, reliability_svg, risk_coverage_svg
from fedlas.report.diagrams.rows import common_extent, forest_svg, interval_cell, race_svg

__all__ = [
    "binned_svg",
    "common_extent",
    "corp_svg",
    "forest_svg",
    "interval_cell",
    "race_svg",
    "reliability_svg",
    "risk_coverage_svg",
]
