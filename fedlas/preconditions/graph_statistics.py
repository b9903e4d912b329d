"""Graph statistics: what the constants of a graph say of the inputs that it was trained on.

A scaler's offset and factor are the mean and deviation of a column in training, the running statistics of a
BatchNormalization those of its channels, the thresholds of trees lie within the range of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from fedlas.data.dataset import Array, Floats
from fedlas.importers import GraphClassifier
from fedlas.importers.onnx.graph import Graph, attribute, integer

#: The axis on which columns or channels lie, counted from the first and from the last; none where there is no such.
Axes = tuple[int, int] | None
_SAME = frozenset(["Cast", "Identity", "Dropout", "Imputer", "Clip"])
#: With fewer thresholds for a column, all rows may well lie on one side.
_FEW_THRESHOLDS = 5
#: A column is standardised by its train rows where mean and deviation of others are so near to 0 and 1; a table, where
#: this share of so many columns is.
_NEAR_MEAN = 0.5
_NEAR_RATIO = 2.0
_NEARLY_ALL = 0.8
_MIN_COLUMNS = 5
#: A scaler's column lies so many deviations off only where it is in another unit or another column.
FAR = 12.0
#: A share of the values of trees' columns outside of all thresholds: what some rows cross still has information.
_OUTSIDE = 0.999
_ONE_VALUE = 0.9
_SQUEEZED = 1 / 50
_CHANCE = 1e-9


@dataclass
class Expected:
    """Values that the model expects in an input's columns, or in its channels where it holds images.

    Attributes:
        centre, spread: (D,), NaN where the graph does not tell.
        lowest, highest: (D,) of thresholds, NaN where there are none or few; `splits` (D,) counts them.
        source: who tells: "scaler", "batch_norm", "trees", "others" (columns).
    """

    size: int
    source: str = "scaler"
    centre: Floats = field(init=False)
    spread: Floats = field(init=False)
    lowest: Floats = field(init=False)
    highest: Floats = field(init=False)
    splits: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.centre, self.spread, self.lowest, self.highest = (np.full(self.size, np.nan) for _ in range(4))
        self.splits = np.zeros(self.size)

    @property
    def known(self) -> NDArray[np.bool_]:
        return np.isfinite(self.centre) & (self.spread > 0)


@dataclass
class _Affine:
    """A tensor whose column `places[i]` of the input is `scale[i] · x + offset[i]`, and the axis of its columns."""

    places: NDArray[np.int64]
    scale: Floats
    offset: Floats
    axes: Axes
    touched: bool = False

    def chosen(self, places: NDArray[np.int64]) -> _Affine | None:
        size = len(self.places)
        if places.ndim != 1 or not len(places) or places.min() < -size or places.max() >= size:
            return None
        return _Affine(self.places[places], self.scale[places], self.offset[places], self.axes, self.touched)


def expected_inputs(classifier: GraphClassifier, layouts: Mapping[str, tuple[int, Axes]]) -> dict[str, Expected]:
    """Values expected of the inputs, by name; `layouts` are how many columns or channels each has, and where."""
    graph = classifier.graph()
    expectations: dict[str, Expected] = {}
    for name, (size, axes) in layouts.items():
        expected = Expected(size)
        start = _Affine(np.arange(size), np.ones(size), np.zeros(size), axes)
        _follow(graph, graph.consumers(), name, start, expected)
        if expected.known.any() or np.isfinite(expected.lowest).any():
            expectations[name] = expected
    return expectations


def standardised_columns(rows: Array) -> Expected | None:
    """Mean 0 and deviation 1 for each column of a table (M, D) of which nearly all are standardised, else None."""
    if rows.ndim != 2 or rows.dtype.kind != "f":
        return None
    mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    varied = deviation > 0
    usual = (np.abs(mean) < _NEAR_MEAN) & (deviation > 1 / _NEAR_RATIO) & (deviation < _NEAR_RATIO)
    if varied.sum() < _MIN_COLUMNS or usual.sum() < _NEARLY_ALL * varied.sum():
        return None
    expected = Expected(rows.shape[1], "others")
    expected.centre[varied], expected.spread[varied] = 0.0, 1.0
    return expected


def vocabularies(classifier: GraphClassifier, names: Sequence[str]) -> dict[str, int]:
    """The sizes of the tables in which these inputs are looked up, by name, as far as the graph tells."""
    if not names:
        return {}
    graph = classifier.graph()
    readers = graph.consumers()
    table_sizes = {name: sorted(_tables(graph, readers, name)) for name in names}
    return {name: sizes[0] for name, sizes in table_sizes.items() if sizes}


def _tables(graph: Graph, readers: Mapping[str, list[tuple[NodeProto, int]]], tensor: str) -> Iterator[int]:
    for node, position in readers.get(tensor, []):
        if node.op_type in ("Cast", "Identity"):
            yield from _tables(graph, readers, node.output[0])
        elif node.op_type == "Gather" and position == 1 and node.input[0] in graph.constants:
            yield int(graph.constants[node.input[0]].shape[integer(node, "axis") or 0])


def _follow(
    graph: Graph,
    readers: Mapping[str, list[tuple[NodeProto, int]]],
    tensor: str,
    state: _Affine,
    expected: Expected,
    depth: int = 0,
) -> None:
    """Walk from an input through what acts on each of its columns alone."""
    read_on = False
    for node, position in readers.get(tensor, []):
        if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            _note_trees(node, state, expected)
        elif node.op_type == "BatchNormalization" and position == 0 and 1 in (state.axes or ()):
            _note_batch_norm(graph, node, state, expected)
        elif (after := _step(graph, node, position, state)) is not None and depth < 20:
            read_on = True
            _follow(graph, readers, node.output[0], after, expected, depth + 1)
    scales = not (np.abs(state.scale) == 1).all()  # a bias or a sign does not
    if state.touched and scales and not read_on and tensor in readers and not expected.splits.any():
        ready = (state.scale != 0) & np.isnan(expected.centre[state.places])
        places = state.places[ready]
        expected.centre[places] = -state.offset[ready] / state.scale[ready]
        expected.spread[places] = 1 / np.abs(state.scale[ready])


def _note_batch_norm(graph: Graph, node: NodeProto, state: _Affine, expected: Expected) -> None:
    mean, var = (np.asarray(graph.constants.get(name, ()), np.float64).ravel() for name in node.input[3:5])
    if mean.size == state.scale.size == var.size:
        scale = np.where(state.scale == 0, 1, state.scale)
        expected.centre[state.places] = (mean - state.offset) / scale
        expected.spread[state.places] = np.sqrt(var + attribute(node, "epsilon", 1e-5)) / np.abs(scale)
        expected.source = "batch_norm"


def _note_trees(node: NodeProto, state: _Affine, expected: Expected) -> None:
    features = np.array(attribute(node, "nodes_featureids", ()), np.int64)
    values = np.array(attribute(node, "nodes_values", ()), np.float64)
    kinds: tuple[bytes, ...] = tuple(attribute(node, "nodes_modes", ()))
    modes = np.array([kind != b"LEAF" for kind in kinds], dtype=np.bool_)
    if not len(values) or len(features) != len(values) or features[modes].max(initial=0) >= len(state.places):
        return
    expected.source = "trees"
    for column in np.unique(features[modes]):
        thresholds = values[modes & (features == column)]
        scale, offset, place = state.scale[column], state.offset[column], state.places[column]
        if len(np.unique(thresholds)) < _FEW_THRESHOLDS or scale == 0:
            continue
        mine = (thresholds - offset) / scale
        expected.lowest[place], expected.highest[place] = mine.min(), mine.max()
        expected.splits[place] += len(mine)
        low, middle, high = np.quantile(mine, (0.1, 0.5, 0.9))
        expected.centre[place], expected.spread[place] = middle, max(high - low, 1e-12) / 2.56


def _step(graph: Graph, node: NodeProto, position: int, state: _Affine) -> _Affine | None:
    """The affine map behind a node that acts on each column alone, None behind any other."""
    if node.op_type in _SAME and position == 0:
        return state
    if node.op_type == "Where":
        return state if position > 0 else None
    if node.op_type == "Scaler":
        offset, scale = (np.array(attribute(node, name, ()), np.float64) for name in ("offset", "scale"))
        if -1 not in (state.axes or ()) or any(
            numbers.size not in (1, len(state.places)) for numbers in (offset, scale)
        ):
            return None
        return replace(state, scale=state.scale * scale, offset=(state.offset - offset) * scale, touched=True)
    if node.op_type in _ARITHMETIC:
        other = node.input[1 - position] if len(node.input) == 2 else ""
        number = _for_columns(graph.constants.get(other), len(state.places))
        if number is None or (node.op_type in ("Sub", "Div") and position == 1):
            return None
        scale, offset = _ARITHMETIC[node.op_type](state.scale, state.offset, number)
        return replace(state, scale=scale, offset=offset, touched=True)
    if node.op_type in ("Gather", "ArrayFeatureExtractor") and position == 0:
        axis = -1 if node.op_type != "Gather" else integer(node, "axis") or 0
        chosen = graph.constants.get(node.input[1])
        if chosen is not None and axis in (state.axes or ()):
            return state.chosen(np.asarray(chosen, np.int64).reshape(-1) if node.op_type != "Gather" else chosen)
    return None


_ARITHMETIC: dict[str, Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]] = {
    "Add": lambda scale, offset, number: (scale, offset + number),
    "Sub": lambda scale, offset, number: (scale, offset - number),
    "Mul": lambda scale, offset, number: (scale * number, offset * number),
    "Div": lambda scale, offset, number: (scale / number, offset / number),
}


def _for_columns(value: NDArray[np.generic] | None, size: int) -> Floats | None:
    """A constant as one number for each column, None where it is no such thing."""
    if value is None or value.dtype.kind not in "fiu" or value.size not in (1, size):
        return None
    return np.broadcast_to(value.astype(np.float64).ravel(), (size,)).copy()


def far_columns(expected: Expected, rows: Floats) -> Iterator[tuple[int, float]]:
    """Columns of rows (M, D) that lie nowhere near what is expected, and how many spreads off they are."""
    for column in np.flatnonzero(expected.known):
        values = rows[:, column][np.isfinite(rows[:, column])]
        if len(values) < 20:
            continue
        distance = float(np.median(np.abs(values - expected.centre[column])) / expected.spread[column])
        far = distance > FAR
        if expected.splits[column]:
            below, above = np.quantile(values, (1 - _OUTSIDE, _OUTSIDE))
            gap = max(expected.lowest[column] - above, below - expected.highest[column])
            # Rows of another region lie beside the thresholds, and rare flags have one value on nearly all rows.
            far = gap > expected.spread[column] and (values == np.median(values)).mean() < _ONE_VALUE
        if far or _squeezed(values, distance, expected.spread[column]):
            yield int(column), distance


def _squeezed(values: Floats, distance: float, spread: float) -> bool:
    """All values lie within a fraction of what is expected, and are many or nowhere near the mean (by Cantelli)."""
    if not 0 < np.ptp(values) < _SQUEEZED * spread:
        return False
    chance = -len(values) * np.log1p(max(distance - _SQUEEZED, 0.0) ** 2)
    return len(np.unique(values)) > 20 or bool(chance < np.log(_CHANCE))
