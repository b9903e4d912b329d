"""The check of the inputs: whether they are prepared as the model expects.

A remedy that explains the labels is the whole finding. Where none does, the signs speak.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from fedlas.data.dataset import Array
from fedlas.documents import Json
from fedlas.notice import Notice, Severity, first_names, shortened
from fedlas.preconditions.column_search import search_columns
from fedlas.preconditions.constant_columns import constant_columns
from fedlas.preconditions.finding import Finding
from fedlas.preconditions.graph_statistics import Axes, Expected, expected_inputs, vocabularies
from fedlas.preconditions.match import Examined
from fedlas.preconditions.remedies import Remedy, usual_remedies
from fedlas.preconditions.remedies.expected import expected_remedies
from fedlas.preconditions.remedies.scale import channel_axis
from fedlas.preconditions.signs import constants_far, signs_of_inputs
from fedlas.preconditions.trials import Trials
from fedlas.preconditions.unused_inputs import unused_inputs

#: With fewer rows nothing can be shown.
_FEWEST_ROWS = 40
#: A remedy that was searched for leaves at most this share of the loss that a usual one leaves.
_CLEARLY = 0.8
#: A gain in accuracy below this is told as one of the log loss.
_VISIBLE = 0.02


def inputs(examined: Examined) -> list[Notice]:
    """Notices about the inputs: one for each mistake."""
    if len(examined.targets) < _FEWEST_ROWS or len(np.unique(examined.targets)) < 2:
        return []
    trials = Trials(examined)
    expected = _expected(examined)
    usual = trials.explain(_remedies(examined, trials, expected))
    if usual is None and (lost := [*constant_columns(examined, trials, expected)]):
        return lost
    finding = _better(usual, None if usual is not None and usual.certain else _searched(examined, trials, expected))
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
            found = search_columns(trials, place, f"'{shortened(name)}'", examined.dataset.columns, expected.get(name))
            if found is not None:
                return found
    return None


def _better(usual: Finding | None, searched: Finding | None) -> Finding | None:
    """A remedy that was searched for must explain clearly more than a usual one."""
    if usual is None or searched is None:
        return usual or searched
    return searched if searched.loss_after < _CLEARLY * usual.loss_after else usual


def _explained(examined: Examined, finding: Finding, severity: Severity) -> Notice:
    ranges: dict[str, Json] = {name: _range(array) for name, array in _named(examined)}
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
    return Notice(finding.remedy.code, message[0].upper() + message[1:], evidence, severity)


def _better_by(finding: Finding) -> str:
    """What a remedy explains, and by which figures."""
    before, after = finding.accuracy, finding.accuracy_after
    if after > before + _VISIBLE:
        shares = f"{100 * after:.1f} % are right with it, {100 * before:.1f} % without"
        return f"the labels better: of {finding.rows} calibration rows {shares}"
    if finding.tames:
        return (
            f"the confidence: without it no network is of itself as sure as of these {finding.rows} calibration rows "
            f"(best temperature {finding.temperature:.3g}), with it answers are as usual "
            f"({finding.temperature_after:.3g})"
        )
    losses = f"{finding.loss_after:.3g} with it, {finding.loss:.3g} without, each at its best temperature"
    return f"the labels better: on {finding.rows} calibration rows the log loss is {losses}"


def _named(examined: Examined) -> Iterator[tuple[str, Array]]:
    rows = slice(0, 200)
    # A name may be so long that none is left to show.
    for name, array in zip(first_names(examined.classifier.input_names), examined.inputs, strict=False):
        yield name, np.asarray(array[rows])


def _range(array: Array) -> list[float]:
    return [float(np.nanmin(array)), float(np.nanmax(array))]
