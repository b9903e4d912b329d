"""The versions that must be equal among all workers of one race: with others the same training ends with other bits."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

#: That of `fedlas.race.record`, which cannot be imported without PyTorch; a test compares them.
RECORD_FORMAT = 5


@cache
def race_versions() -> str:
    """Those of this worker: of the release, of a race's entries, and of PyTorch."""
    return f"fedlas {_installed('fedlas')}, entries {RECORD_FORMAT}, torch {_installed('torch')}"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a worker that trains nothing needs no PyTorch
        return "none"
