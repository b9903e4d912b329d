"""Diagrams of a report as self-contained SVG: reliability and risk-coverage."""

from __future__ import annotations

from fedlas.report.diagrams.reliability import reliability_panel_svg, reliability_svg
from fedlas.report.diagrams.risk_coverage import risk_coverage_svg

__all__ = ["reliability_panel_svg", "reliability_svg", "risk_coverage_svg"]
