"""The result of every loader, the split of its rows, and the place of large files; it knows no data set."""

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
    """One data set, split: what the base model is trained on, what else a job is given, and what scores its answer.

    Attributes:
        train: `(inputs, targets)` that the base model is trained on.
        calibration, test: rows that no model has seen; a job gets them, and its gate looks at the test rows.
        hidden: rows that no job gets.
        class_names: K names, in the order of the class indices.
        source: package and version that the rows came from.
    """

    train: Rows
    calibration: Rows
    test: Rows
    hidden: Rows
    class_names: tuple[str, ...]
    source: str

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def cache_folder() -> Path:
    """Where downloads and trained base networks are kept: `FEDLAS_BENCHMARKS_CACHE`, or under the user's cache."""
    chosen = os.environ.get("FEDLAS_BENCHMARKS_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "fedlas-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results_file(name: str) -> Path:
    """Where a program keeps everything that it found, as JSON; what is worth knowing goes into benchmarks/README.md."""
    folder = cache_folder() / "results"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.json"


def missing(what: str, remedy: str) -> SystemExit:
    """The exception for data that is not installed; it names the package that brings it."""
    return SystemExit(f"{what} is missing: {remedy}")
