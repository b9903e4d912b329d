"""Typicality as ONNX: familiarity in operators that mean the same from opset 7 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from fedlas.guarantees.typicality import Familiarity, Gaussians


def familiarity_graph(
    familiarity: Familiarity, input_name: str, output_name: str, *, opset: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and initialisers from features (N, D) to familiarity (N,)."""
    part = _Part(opset)
    measure = familiarity.measure
    if isinstance(measure, Gaussians):
        distance = _distance(part, input_name, measure)
    else:
        ones = part.constant(np.ones((familiarity.feature_dim, 1)))
        norm = part.node("MatMul", [part.node("Abs", [input_name]), ones])
        distance = part.node("Abs", [part.node("Sub", [norm, part.constant(measure.median)])])
    _share(part, distance, familiarity, output_name)
    return part.nodes, part.initializers


class _Part:
    """Collects nodes and constants under names that start alike."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"fedlas_familiarity_constant_{len(self.initializers)}"
        array: NDArray[Any] = np.ascontiguousarray(np.asarray(value, dtype))
        self.initializers.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"fedlas_familiarity_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def squares(self, source: str, width: int) -> str:
        """Sums of squares (N, 1): ReduceSum changed with opset 13, a product with ones never did."""
        ones = self.constant(np.ones((width, 1)))
        return self.node("MatMul", [self.node("Mul", [source, source]), ones])


def _distance(part: _Part, features: str, measure: Gaussians) -> str:
    """As `Gaussians.__call__`: (N, 1)."""
    dim, rank = measure.directions.shape
    centred = part.node("Sub", [features, part.constant(measure.mean)])
    inside = part.node("MatMul", [centred, part.constant(measure.directions)])
    white = part.node("MatMul", [inside, part.constant(measure.whitening)])
    cross = part.node("MatMul", [white, part.constant(-2 * measure.class_means.T)])
    offsets = part.constant((measure.class_means**2).sum(axis=1))
    to_means = part.node("Add", [part.node("Add", [cross, offsets]), part.squares(white, rank)])
    if part.opset < 18:
        nearest = part.node("ReduceMin", [to_means], axes=[1], keepdims=1)
    else:  # the axes became an input
        nearest = part.node("ReduceMin", [to_means, part.constant([1], np.int64)], keepdims=1)
    if not measure.residual_scale:
        return nearest
    back = part.node("MatMul", [inside, part.constant(measure.directions.T)])
    left = part.node("Mul", [part.node("Sub", [centred, back]), part.constant(measure.residual_scale)])
    return part.node("Add", [nearest, part.squares(left, dim)])


def _share(part: _Part, distance: str, familiarity: Familiarity, output_name: str) -> None:
    """Linear interpolation: the first value minus what each piece between two knots takes off.

    The filled part of a piece is clip(x, 0, 1) = 1 - relu(1 - relu(x)), which stays exact however large x is.
    """
    knots, values = familiarity.knots, familiarity.values
    one = part.constant(1.0)
    over = part.node("Sub", [distance, part.constant(knots[None, :-1])])
    filled = part.node("Relu", [part.node("Mul", [over, part.constant(1 / np.diff(knots)[None])])])
    unfilled = part.node("Relu", [part.node("Sub", [one, filled])])
    # What is unfilled has not been taken off: value = last + Σ drop · unfilled.
    kept = part.node("MatMul", [unfilled, part.constant(-np.diff(values)[:, None])])
    share = part.node("Add", [kept, part.constant(values[-1])])
    part.node("Reshape", [share, part.constant([-1], np.int64)], output_name)
