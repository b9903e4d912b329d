"""Checks of rows and classes."""

from __future__ import annotations

from fedlas.notice import Notice
from fedlas.preconditions.match import Examined


def class_rows(examined: Examined) -> list[Notice]:
    """Notices about rows and classes."""
    return []
