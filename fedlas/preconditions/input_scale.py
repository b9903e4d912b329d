"""Checks of the scale of the inputs."""

from __future__ import annotations

from fedlas.notice import Notice
from fedlas.preconditions.match import Examined


def input_scale(examined: Examined) -> list[Notice]:
    """Notices about the scale of the inputs."""
    return []
