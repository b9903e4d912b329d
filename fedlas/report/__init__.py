"""The calibration report: plain numbers ready for JSON, one self-contained page, and pictures; it trains nothing."""

from __future__ import annotations

from fedlas.report.build import CalibrationReport, build_report, finite
from fedlas.report.diagrams import reliability_svg, risk_coverage_svg
from fedlas.report.environment import library_versions, machine_facts
from fedlas.report.page import report_html

__all__ = [
    "CalibrationReport",
    "build_report",
    "finite",
    "library_versions",
    "machine_facts",
    "reliability_svg",
    "report_html",
    "risk_coverage_svg",
]
