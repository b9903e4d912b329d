"""Filled rows: ragged lists are padded and null becomes NaN, as in the dataset that the model was calibrated on."""

from __future__ import annotations

from itertools import chain
from math import nan
from typing import Any

import numpy as np

from service.inference.json_arrays import plain_array
from service.inference.profile import TensorSpec
from service.registry.errors import TooLarge

#: Of the padded rows of one input: a list of a million values and thousands of short ones would become gigabytes.
MAX_BYTES = 64 << 20


def filled(rows: list[Any], spec: TensorSpec) -> np.ndarray | None:
    """(N, *row) with what the model's reading fills in; None where that is not all that is wrong with the rows.

    Raises:
        TooLarge: `too_many_values` where a few long rows would make all others long.
    """
    if spec.nan and np.dtype(spec.dtype).kind == "f":
        rows = _with_nan(rows, len(spec.row))
    if spec.fill is None or not spec.row or set(map(type, rows)) != {list}:
        return plain_array(rows, spec.row, spec.dtype)
    return _padded(rows, spec, spec.fill)


def _with_nan(values: list[Any], depth: int) -> list[Any]:
    """NaN for null, in lists of lists of this depth."""
    if depth == 0:
        return [nan if value is None else value for value in values]
    return [_with_nan(value, depth - 1) if type(value) is list else value for value in values]


def _padded(rows: list[list[Any]], spec: TensorSpec, fill: float) -> np.ndarray | None:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    longest, wanted = int(lengths.max()), spec.row[0]
    width = wanted if isinstance(wanted, int) else longest
    cells = plain_array(list(chain.from_iterable(rows)), spec.row[1:], spec.dtype)
    if cells is None or longest > width:
        return None
    if len(rows) * width * cells[:1].nbytes > MAX_BYTES:
        message = (
            f"{len(rows)} rows, padded to {width} values each, take more than {MAX_BYTES >> 20} MiB; "
            "send rows of like length together"
        )
        raise TooLarge("too_many_values", message, field="inputs")
    padded = np.full((len(rows), width, *cells.shape[1:]), fill, cells.dtype)
    padded[np.arange(width) < lengths[:, None]] = cells
    return padded
