"""The check of the inputs: whether they are prepared as the model expects.

A remedy that explains the labels is the whole finding; where no usual one does, every exchange of two columns and every
unit of each is tried. Where none does, the signs speak: columns that are constant or unused. A model whose column never
varied in training hardly depends on it, so a column was lost where the answers depend on it as much as on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fedlas.contract.profiles import Notice
from fedlas.data import Dataset
from fedlas.data.dataset import Array
from fedlas.documents import Json, Severity, first_names, shortened
from fedlas.preconditions.column_remedies import (
    described_order,
    distances,
    expected_remedies,
    moves,
    number_of_moves,
    permuted,
    unit_remedies,
    usual_remedies,
)
from fedlas.preconditions.graph_statistics import Axes, Expected, expected_inputs, standardised_columns, vocabularies
from fedlas.preconditions.remedy import Remedy, Rows, channel_axis, column_name, on_input
from fedlas.preconditions.signs import constants_far, signs_of_inputs
from fedlas.preconditions.trials import Examined, Finding, Trials

Order = NDArray[np.int64]
#: An exchange goes on where it takes this share of the loss away; so many follow each other.
_STEP_GAIN = 0.02
_MAX_STEPS = 40
#: Logits of several trials that are computed at once.
_AT_ONCE = 200_000
_MIN_SEARCHED_ROWS = 30
#: In wider tables one column hardly matters, and the orders alone take gigabytes. What is computed at once, in bytes.
_MAX_COLUMNS = 512
_MAX_BYTES = 2**26
_ONE_EXCHANGE = 0.25
_ANY_ORDER = 0.5
#: Spreads by which an order may be farther from the graph's constants.
_AS_NEAR = 0.5
#: Rows that are answered again, and columns that are moved: those that are constant, and others to compare them with.
MAX_ROWS = 128
MAX_CONSTANT = 10
MAX_OTHERS = 30
#: The chance that rows drawn like the train rows would all have the one value.
MAX_CHANCE = 1e-6
_ROWS = 64
#: With fewer rows nothing can be shown.
_MIN_JUDGED_ROWS = 40
#: A remedy that was searched for leaves at most this share of the loss that a usual one leaves.
_CLEARLY = 0.8
#: A gain in accuracy below this is reported as one of the log loss.
_VISIBLE = 0.02


def search_columns(
    trials: Trials, place: int, name: str, columns: Sequence[str] | None, expected: Expected | None
) -> Finding | None:
    """The finding of a search over the columns of one table, none that constants of the graph speak against."""
    rows = trials.screened[place]
    if not 2 <= rows.shape[1] <= _MAX_COLUMNS or len(rows) < _MIN_SEARCHED_ROWS:
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
    remedies: list[Remedy] = []
    for step in range(_MAX_STEPS):
        tried = [order[move] for move in candidates]
        if cost is not None:  # only orders that lie as near to what the graph expects as the given one
            most = np.trace(cost) + _AS_NEAR
            tried = [made for made in tried if cost[np.arange(width), made].sum() <= most]
        losses = _losses(trials, place, tried) if tried else None
        if losses is None or losses.min() > (1 - _STEP_GAIN) * best:
            break
        order, best = tried[int(losses.argmin())], float(losses.min())
        if step == 0:
            remedies = [_remedy(place, order, name, columns, _ONE_EXCHANGE)]
    changed = int((order != np.arange(width)).sum())
    return [*remedies, _remedy(place, order, name, columns, _ANY_ORDER)] if changed > 2 else remedies


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
    at_once = max(1, min(_AT_ONCE // trials.num_classes, _MAX_BYTES // row_bytes) // size)
    for start in range(0, len(orders), at_once):
        part = orders[start : start + at_once]
        rows = [np.concatenate([array] * len(part)) for array in trials.screened]  # once for each order
        rows[place] = np.concatenate([trials.screened[place][:, order] for order in part])
        if (logits := trials.answers(rows)) is None or trials.seconds_left < 0:
            return None
        losses.append(trials.screen_losses(logits.reshape(len(part), size, -1)))
    return np.concatenate(losses)


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
    """Columns that are constant in judging rows, and their deviation by train rows, graph or standardised columns."""
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
    return Notice(
        code="constant_column",
        message=message,
        evidence={"input": name, "columns": shown, "moved": moved},
        severity="error",
    )


def unused_inputs(examined: Examined, trials: Trials) -> list[Notice]:
    """A notice for each of several inputs that may be exchanged between rows without any effect."""
    if len(trials.judged) < 2:
        return []
    rows = [array[:_ROWS] for array in trials.judged]
    answers = trials.answers(rows)
    notices = []
    for place, name in enumerate(examined.classifier.input_names):
        moved = np.roll(rows[place], len(rows[place]) // 2, axis=0)
        if answers is None or np.array_equal(moved, rows[place], equal_nan=moved.dtype.kind == "f"):
            continue  # what is the same in all rows tells nothing
        changed = trials.answers([moved if i == place else array for i, array in enumerate(rows)])
        if changed is not None and np.allclose(changed, answers, rtol=1e-5, atol=1e-6, equal_nan=True):
            notices.append(
                Notice(
                    code="unused_input",
                    message=f"the answers do not depend on the input '{shortened(name)}': its values were exchanged "
                    "between "
                    "rows, and every answer stayed",
                    evidence={"input": shortened(name), "rows": len(moved)},
                )
            )
    return notices if len(notices) < len(rows) else []


def inputs(examined: Examined) -> list[Notice]:
    if len(examined.targets) < _MIN_JUDGED_ROWS or len(np.unique(examined.targets)) < 2:
        return []
    trials = Trials(examined)
    expected = _expected(examined)
    usual = trials.explain(_remedies(examined, trials, expected))
    if usual is None and (lost := [*constant_columns(examined, trials, expected)]):
        return lost
    finding = usual
    if usual is None or not usual.certain:
        searched = _searched(examined, trials, expected)
        # A remedy that was searched for must explain clearly more than a usual one.
        if searched is not None and (usual is None or searched.loss_after < _CLEARLY * usual.loss_after):
            finding = searched
    if finding is not None:
        certain = finding.certain or any(constants_far(examined, trials, expected))
        return [_explained(examined, finding, "error" if certain else "warning")]
    unused = unused_inputs(examined, trials)
    if trials.reordered:  # the order of the classes explains the answers
        return unused
    return [*islice(signs_of_inputs(examined, trials, expected), 1), *unused]


def _expected(examined: Examined) -> dict[str, Expected]:
    layouts: dict[str, tuple[int, Axes]] = {}
    for name, array in zip(examined.classifier.input_names, examined.inputs, strict=True):
        axis = 1 if array.ndim == 2 else channel_axis(array)
        layouts[name] = (1, None) if axis is None else (array.shape[axis], (axis, axis - array.ndim))
    return expected_inputs(examined.classifier, layouts)


def _remedies(examined: Examined, trials: Trials, expected: dict[str, Expected]) -> Iterator[Remedy]:
    names, columns = list(examined.classifier.input_names), examined.dataset.columns
    for place, name in enumerate(names):
        rows = trials.screened[place]
        if name in expected and rows.ndim == 2 and rows.dtype.kind == "f":
            yield from expected_remedies(place, f"'{shortened(name)}'", rows, expected[name], columns)
    integers = [name for name, rows in zip(names, trials.screened, strict=True) if rows.dtype.kind in "iu"]
    yield from usual_remedies(names, trials.screened, columns, vocabularies(examined.classifier, integers))


def _searched(examined: Examined, trials: Trials, expected: dict[str, Expected]) -> Finding | None:
    for place, name in enumerate(examined.classifier.input_names):
        rows = trials.screened[place]
        if rows.ndim == 2 and rows.dtype.kind == "f":
            finding = search_columns(
                trials, place, f"'{shortened(name)}'", examined.dataset.columns, expected.get(name)
            )
            if finding is not None:
                return finding
    return None


def _explained(examined: Examined, finding: Finding, severity: Severity) -> Notice:
    ranges: dict[str, Json] = {}
    # A name may be so long that none is left to show.
    for name, array in zip(first_names(examined.classifier.input_names), examined.inputs, strict=False):
        rows = np.asarray(array[:200])
        ranges[name] = [float(np.nanmin(rows)), float(np.nanmax(rows))]
    message = (
        f"{finding.remedy.sentence} explains {_better_by(finding)}; prepare rows, or the model's preprocessing of "
        "image files, as for its training"
    )
    evidence: dict[str, Json] = {
        "remedy": finding.remedy.name,
        "rows": finding.rows,
        "accuracy": finding.accuracy,
        "accuracy_after": finding.accuracy_after,
        "nll": finding.loss,
        "nll_after": finding.loss_after,
        "p_value": finding.p_value,
        "ranges": ranges,
    }
    return Notice(
        code=finding.remedy.code, message=message[0].upper() + message[1:], evidence=evidence, severity=severity
    )


def _better_by(finding: Finding) -> str:
    before, after = finding.accuracy, finding.accuracy_after
    if after > before + _VISIBLE:
        return (
            f"the labels better: of {finding.rows} calibration rows {100 * after:.1f} % are right with it, "
            f"{100 * before:.1f} % without"
        )
    if finding.tames:
        return (
            f"the confidence: without it no network is of itself as sure as of these {finding.rows} calibration rows "
            f"(best temperature {finding.temperature:.3g}), with it answers are as usual "
            f"({finding.temperature_after:.3g})"
        )
    return (
        f"the labels better: on {finding.rows} calibration rows the log loss is {finding.loss_after:.3g} with it, "
        f"{finding.loss:.3g} without, each at its best temperature"
    )
