"""The environment of a report."""

from __future__ import annotations

from fedlas.report import library_versions


def test_versions_name_what_is_installed() -> None:
    """Python, NumPy and the library itself are always there."""
    assert {"python", "numpy", "fedlas"} <= set(library_versions())
