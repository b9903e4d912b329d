"""Checks of the order of the classes."""

from __future__ import annotations

from fedlas.notice import Notice
from fedlas.preconditions.match import Examined


def label_order(examined: Examined) -> list[Notice]:
    """Notices about the order of the classes."""
    return []
