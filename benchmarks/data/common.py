"""What every loader gives back, how rows are split, and where large files are kept; it knows no data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = tuple[list[Array], NDArray[np.int64]]


@dataclass(frozen=True)
class Split:
    """One data set, split: what the base model is trained on, what the race may use, and who judges.

    Attributes:
        base: `(inputs, targets)` of the base model; train: of the fine-tunes (the same rows, or fresh ones).
        calibration, test: rows that no network has seen.
        class_names: K names, in the order of the class indices.
        calibration_groups, test_groups: one integer per row where rows belong together, else None.
        source: package and version that the rows came from.
    """

    base: Rows
    train: Rows
    calibration: Rows
    test: Rows
    class_names: tuple[str, ...]
    source: str
    calibration_groups: NDArray[np.int64] | None = None
    test_groups: NDArray[np.int64] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def cache_folder() -> Path:
    """Where downloads and trained base networks are kept: `FEDLAS_BENCHMARKS_CACHE`, or under the user's cache."""
    chosen = os.environ.get("FEDLAS_BENCHMARKS_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "fedlas-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def missing(what: str, remedy: str) -> SystemExit:
    """The exception for data that is not installed; it names the package that brings it."""
    return SystemExit(f"{what} is missing: {remedy}")
