"""Constant columns: columns of a table with one value in all rows, though the model was trained on other values too.

A model whose column never varied in training hardly depends on it: trees have no threshold there, a penalised weight
is zero, a network has the weight that it began with. So a column was lost where the answers depend on it as much as
on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from scipy.special import softmax

from fedlas.data import Dataset
from fedlas.data.dataset import Array
from fedlas.notice import Notice, shortened
from fedlas.preconditions.graph_statistics import Expected, standardised_columns
from fedlas.preconditions.match import Examined
from fedlas.preconditions.remedies.remedy import Rows, column_name, on_input
from fedlas.preconditions.trials import Trials

#: Rows that are answered again, and columns that are moved: those that are constant, and others to compare them with.
MAX_ROWS, MAX_CONSTANT, MAX_OTHERS = 128, 10, 30
#: The chance that rows drawn like the train rows would all have the one value.
MAX_CHANCE = 1e-6


def constant_columns(examined: Examined, trials: Trials, expected: Mapping[str, Expected]) -> Iterator[Notice]:
    """`constant_column`, for each table that has lost columns."""
    dataset = examined.dataset
    for place, name in enumerate(examined.classifier.input_names):
        rows = trials.judged[place]
        if rows.ndim == 2 and rows.dtype.kind == "f":
            moves = dict(_moves(dataset, name, rows, expected.get(name)))
            lost = _depended_on(trials, place, moves) if moves else {}
            if lost:
                yield _notice(dataset, shortened(name), {column: float(rows[0, column]) for column in lost}, lost)


def _moves(dataset: Dataset, name: str, tried: Array, expected: Expected | None) -> Iterator[tuple[int, float]]:
    """Columns that are constant where rows (M, D) calibrate and judge, and their deviation in training.

    Train rows tell it, or the graph, or other columns, which are standardised.
    """
    told = expected or standardised_columns(tried)
    judging, training = dataset.rows("calibration", "test"), dataset.rows("train")
    for column in np.flatnonzero((tried == tried[0]).all(axis=0))[:MAX_CONSTANT]:
        value, train = tried[0, column], dataset.inputs[name][training, column].astype(np.float64)
        if not (dataset.inputs[name][judging, column] == value).all():
            continue
        share = float((train == value).mean()) if len(train) else 1.0
        if share < 1 and share ** len(tried) < MAX_CHANCE:
            yield int(column), float(np.nanstd(train))
        elif share == 1 and told is not None and (told.source == "others" or told.known[column]):
            yield int(column), 1.0 if told.source == "others" else float(told.spread[column])


def _depended_on(trials: Trials, place: int, moves: Mapping[int, float]) -> dict[int, float]:
    """Columns that move the answers as much as the median of the others does, and by how much of probability."""
    rows = [array[:MAX_ROWS] for array in trials.judged]
    deviations = np.nanstd(trials.judged[place].astype(np.float64), axis=0)
    others = np.random.default_rng(0).permutation(np.flatnonzero(deviations > 0))[:MAX_OTHERS]
    if not len(others) or not trials.affordable(2 * len(rows[0]) * (len(moves) + len(others))):
        return {}
    usual = [_moved(trials, place, rows, int(column), float(deviations[column])) for column in others]
    effects = {column: _moved(trials, place, rows, column, by) for column, by in moves.items()}
    return {column: effect for column, effect in effects.items() if effect >= max(float(np.median(usual)), 1e-6)}


def _moved(trials: Trials, place: int, rows: Rows, column: int, by: float) -> float:
    """The probability that goes to other classes where a column is larger by so much rather than smaller, halved."""
    step = by * np.eye(rows[place].shape[1])[column]
    up, down = (trials.answers(rows, on_input(place, partial(np.add, moved))) for moved in (step, -step))
    if up is None or down is None:
        return 0.0
    apart = softmax(up.astype(np.float64), axis=1) - softmax(down.astype(np.float64), axis=1)
    return float(np.abs(apart).sum(axis=1).mean() / 4)


def _notice(dataset: Dataset, name: str, values: Mapping[int, float], lost: Mapping[int, float]) -> Notice:
    shown = {column_name(dataset.columns, column): value for column, value in values.items()}
    calibration, test = (len(dataset.rows(split)) for split in ("calibration", "test"))
    said, moved = ", ".join(f"{column} is {value:.6g}" for column, value in shown.items()), max(lost.values())
    message = (
        f"In all {calibration:,} calibration and {test:,} test rows of '{name}' column {said}, but the model depends "
        f"on it as on the others (one deviation moves {100 * moved:.1f} % of the probability), so it varied in "
        "training: send its values, not a filler"
    )
    return Notice("constant_column", message, {"input": name, "columns": shown, "moved": moved}, "error")
