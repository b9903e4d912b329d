"""Remedies that constants of the graph suggest: the columns in the order, the units or the scale of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from fedlas.data.dataset import Array
from fedlas.preconditions.graph_statistics import Expected, far_columns
from fedlas.preconditions.remedies.columns import described_order, in_unit, permuted
from fedlas.preconditions.remedies.remedy import Change, Remedy, column_name, on_input

_FACTORS = np.array([10.0**power for power in (-6, -3, -2, -1, 1, 2, 3, 6)] + [60, 3600, 1 / 60, 1 / 3600, 24, 1 / 24])
_UNKNOWN = 0.3
#: Columns that come so much nearer, in spreads, were in another order; less may be a shift of the data.
_CLEARLY_NEARER = 1.0
#: The best of all orders takes the cube of their number.
_MOST_ORDERED = 512


def expected_remedies(
    place: int, name: str, rows: Array, expected: Expected, columns: Sequence[str] | None
) -> Iterator[Remedy]:
    """What brings the columns of a table to where the graph expects them."""
    wide = _without_gaps(rows)
    mean, deviation = np.nanmean(wide, axis=0), np.nanstd(wide, axis=0)
    far = [column for column, _ in far_columns(expected, wide)]
    if expected.size <= _MOST_ORDERED:
        yield from _nearest_order(place, name, rows, expected, columns)
    for column in far[:5]:
        # The constants tell the unit: that the column is better left out would be no objection.
        yield replace(
            in_unit(place, column, _factor(expected, column, mean, deviation), name, columns),
            control=None,
            searched=False,
        )
    if len(far) > 1:
        factors = np.ones(len(mean))
        factors[far] = [_factor(expected, column, mean, deviation) for column in far]
        which = ", ".join(column_name(columns, column) for column in far[:10])
        yield Remedy(
            "column_units", "input_columns", f"other units for the columns {which} of {name}", _scaled(place, factors)
        )
    known = expected.known
    if known.all() and (np.abs(mean) < 1).mean() > 0.8 and ((deviation > 0.3) & (deviation < 3)).mean() > 0.7:
        centre, spread = expected.centre, expected.spread
        yield Remedy(
            "undo_standardisation",
            "input_scale",
            f"undoing the standardisation of {name}, which the model does itself",
            on_input(place, lambda x: x * spread + centre),
        )


def _nearest_order(
    place: int, name: str, rows: Array, expected: Expected, columns: Sequence[str] | None
) -> Iterator[Remedy]:
    cost = distances(expected, rows)
    order = np.asarray(linear_sum_assignment(cost)[1])
    moved = order != np.arange(len(order))
    if moved.any():
        nearer = float((np.diag(cost) - cost[np.arange(len(order)), order])[moved].mean())
        sentence = described_order(order, columns, name)
        yield permuted(place, order, "order_columns", sentence, searched=nearer < _CLEARLY_NEARER)


def _scaled(place: int, factors: Array) -> Change:
    return on_input(place, lambda x: x * factors)


def _without_gaps(rows: Array) -> Array:
    """Rows (M, D) float64, zero in columns that have no number."""
    wide = rows.astype(np.float64)
    wide[:, ~np.isfinite(wide).any(axis=0)] = 0
    return wide


def distances(expected: Expected, rows: Array) -> Array:
    """How far each column of the data lies from where each column of the model was: (model's, data's), in spreads."""
    wide = _without_gaps(rows)
    mean, deviation = np.nanmean(wide, axis=0), np.nanstd(wide, axis=0)
    known, varied = expected.known, deviation > 0
    spread, wide = np.where(known, expected.spread, 1.0)[:, None], np.where(varied, deviation, 1.0)[None]
    centre = np.where(known, expected.centre, 0.0)[:, None]
    cost = np.abs(centre - mean[None]) / (spread + wide) + np.abs(np.log(wide / spread))
    cost[~known] = _UNKNOWN
    cost[:, ~varied] = _UNKNOWN
    # Of orders that fit alike the given one is taken.
    cost[np.diag_indices_from(cost)] -= 0.05
    return np.asarray(cost)


def _factor(expected: Expected, column: int, mean: Array, deviation: Array) -> float:
    """The usual factor between units that is nearest to what the graph's constants ask for."""
    if abs(expected.centre[column]) > expected.spread[column] and mean[column]:
        wanted = abs(expected.centre[column] / mean[column])
    else:
        wanted = expected.spread[column] / max(float(deviation[column]), 1e-12)
    return float(_FACTORS[np.abs(np.log(_FACTORS / max(wanted, 1e-12))).argmin()])
