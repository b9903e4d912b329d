"""The calibration report: a typed document from the evidence of a job, one self-contained page, and diagrams."""

from __future__ import annotations

from fedlas.extras import require

require("library", "numpy", "pydantic", "jinja2")

from fedlas.contract.report import Named, Report, Subject
from fedlas.metrics.calibration_error import SplitAccuracy
from fedlas.report.build import Evidence, build_report
from fedlas.report.diagrams import reliability_svg, risk_coverage_svg
from fedlas.report.page import report_html
from fedlas.report.provenance import library_versions, machine_facts

__all__ = [
    "Evidence",
    "Named",
    "Report",
    "SplitAccuracy",
    "Subject",
    "build_report",
    "library_versions",
    "machine_facts",
    "reliability_svg",
    "report_html",
    "risk_coverage_svg",
]
