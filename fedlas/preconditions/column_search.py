"""The search for an order of columns, or the unit of one, that explains the labels where no usual remedy does.

Every exchange of two columns and every unit of each is tried on the screened rows; exchanges are repeated while they
help. What is found is judged on other rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Array
from fedlas.preconditions.finding import Finding
from fedlas.preconditions.graph_statistics import Expected
from fedlas.preconditions.remedies import Remedy, Rows
from fedlas.preconditions.remedies.columns import described_order, moves, number_of_moves, permuted, unit_remedies
from fedlas.preconditions.remedies.expected import distances
from fedlas.preconditions.trials import Trials

Order = NDArray[np.int64]
#: An exchange goes on where it takes this share of the loss away; so many follow each other.
_STEP_GAIN, _MOST_STEPS = 0.02, 40
#: Logits of several trials that are computed at once.
_AT_ONCE = 200_000
_FEWEST_ROWS = 30
#: In wider tables one column hardly matters, and the orders alone take gigabytes. What is computed at once, in bytes.
_MOST_COLUMNS, _MOST_BYTES = 512, 2**26
_ONE_EXCHANGE, _ANY_ORDER = 0.25, 0.5
#: Spreads by which an order may be farther from the graph's constants.
_AS_NEAR = 0.5


def search_columns(
    trials: Trials, place: int, name: str, columns: Sequence[str] | None, expected: Expected | None
) -> Finding | None:
    """The finding of a search over the columns of one table, none that constants of the graph speak against."""
    rows = trials.screened[place]
    if not 2 <= rows.shape[1] <= _MOST_COLUMNS or len(rows) < _FEWEST_ROWS:
        return None
    cost = None if expected is None else distances(expected, rows)
    units = list(unit_remedies(place, name, rows, columns)) if expected is None else []
    finalists = [*_orders(trials, place, name, columns, cost), *(trials.screen(units) if units else [])]
    return trials.judge(finalists)


def _orders(trials: Trials, place: int, name: str, columns: Sequence[str] | None, cost: Array | None) -> list[Remedy]:
    """The best single exchange, and the order to which exchanges lead one after the other."""
    width = trials.screened[place].shape[1]
    if not trials.affordable(len(trials.screened[place]) * number_of_moves(width)):
        return []
    candidates = list(moves(width))
    order, best = np.arange(width), trials.screen_loss()
    found: list[Remedy] = []
    for step in range(_MOST_STEPS):
        tried = [made for move in candidates if _is_no_farther(made := order[move], cost)]
        losses = _losses(trials, place, tried) if tried else None
        if losses is None or losses.min() > (1 - _STEP_GAIN) * best:
            break
        order, best = tried[int(losses.argmin())], float(losses.min())
        if step == 0:
            found = [_remedy(place, order, name, columns, _ONE_EXCHANGE)]
    changed = int((order != np.arange(width)).sum())
    return [*found, _remedy(place, order, name, columns, _ANY_ORDER)] if changed > 2 else found


def _is_no_farther(order: Order, cost: Array | None) -> bool:
    """Whether columns in this order lie as near to what the graph expects as they do in the given one."""
    return cost is None or bool(cost[np.arange(len(order)), order].sum() <= np.trace(cost) + _AS_NEAR)


def _remedy(place: int, order: Order, name: str, columns: Sequence[str] | None, least_gain: float) -> Remedy:
    sentence = described_order(order, columns, name)
    return permuted(place, order, "order_columns", sentence, least_gain=least_gain, searched=True)


def _losses(trials: Trials, place: int, orders: Sequence[Order]) -> NDArray[np.float64] | None:
    """The loss of each order on the screened rows, None where time is short."""
    size = len(trials.screened[place])
    if not trials.affordable(size * len(orders)):
        return None
    losses: list[NDArray[np.float64]] = []
    row_bytes = sum(array[:1].nbytes for array in trials.screened)
    at_once = max(1, min(_AT_ONCE // trials.num_classes, _MOST_BYTES // row_bytes) // size)
    for start in range(0, len(orders), at_once):
        part = orders[start : start + at_once]
        logits = trials.answers(_stacked(trials.screened, place, part))
        if logits is None or trials.seconds_left < 0:
            return None
        losses.append(trials.screen_losses(logits.reshape(len(part), size, -1)))
    return np.concatenate(losses)


def _stacked(rows: Rows, place: int, orders: Sequence[Order]) -> Rows:
    """The rows once for each order, one after the other."""

    def repeated(array: Array) -> Array:
        return np.concatenate([array] * len(orders))

    ordered = np.concatenate([rows[place][:, order] for order in orders])
    return [ordered if i == place else repeated(array) for i, array in enumerate(rows)]
