"""Checks of the columns of the inputs."""

from __future__ import annotations

from fedlas.notice import Notice
from fedlas.preconditions.match import Examined


def input_columns(examined: Examined) -> list[Notice]:
    """Notices about the columns of the inputs."""
    return []
