"""Datasets: safe readers, splits that are fixed once, fit to a model."""

from __future__ import annotations

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

from fedlas.data.alignment import align, align_inputs, used_inputs
from fedlas.data.dataset import MIN_SPLIT_ROWS, SEEN_BY_MODEL, SPLITS, Dataset
from fedlas.data.duplicates import shared_rows, without_copies
from fedlas.data.prepared import load_dataset, save_dataset
from fedlas.data.reading import ReadingOptions, read_dataset

__all__ = [
    "MIN_SPLIT_ROWS",
    "SEEN_BY_MODEL",
    "SPLITS",
    "Dataset",
    "ReadingOptions",
    "align",
    "align_inputs",
    "load_dataset",
    "read_dataset",
    "save_dataset",
    "shared_rows",
    "used_inputs",
    "without_copies",
]
