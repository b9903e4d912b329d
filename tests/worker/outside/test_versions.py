"""The versions of a race."""

from __future__ import annotations

import torch

from fedlas import __version__
from fedlas.race.record import _FORMAT
from worker.outside.versions import RECORD_FORMAT, race_versions


def test_versions_are_those_of_what_trains() -> None:
    """What is said without loading PyTorch is what a child that has loaded it runs with."""
    assert RECORD_FORMAT == _FORMAT
    assert race_versions() == f"fedlas {__version__}, entries {_FORMAT}, torch {torch.__version__}"
