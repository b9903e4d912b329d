"""Typicality as ONNX: familiarity in operators that mean the same from opset 7 on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlas.guarantees.typicality import Familiarity, Gaussians
from fedlas.importers.onnx.graph import Graph


def append_familiarity(graph: Graph, familiarity: Familiarity, features: str, output: str) -> None:
    """Nodes and constants from features (N, D) to familiarity (N,)."""
    writer = _Writer(graph)
    measure = familiarity.measure
    if isinstance(measure, Gaussians):
        distance = writer.distance(features, measure)
    else:
        norm = writer.node("MatMul", writer.node("Abs", features), np.ones((familiarity.feature_dim, 1)))
        distance = writer.node("Abs", writer.node("Sub", norm, measure.median))
    share = writer.share(distance, familiarity)
    shape = graph.add_constant("fedlas_familiarity_shape", np.array([-1]))
    graph.append("Reshape", [share, shape], output=output)


class _Writer:
    """Adds nodes whose operands are tensors by name and float32 constants by value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def node(self, operator: str, *operands: str | ArrayLike) -> str:
        names = [
            operand
            if isinstance(operand, str)
            else self.graph.add_constant("fedlas_familiarity_constant", np.asarray(operand, np.float32))
            for operand in operands
        ]
        return self.graph.append(operator, names, "fedlas_familiarity")

    def squares(self, source: str, width: int) -> str:
        """Sums of squares (N, 1): ReduceSum changed with opset 13, a product with ones never did."""
        return self.node("MatMul", self.node("Mul", source, source), np.ones((width, 1)))

    def distance(self, features: str, measure: Gaussians) -> str:
        """As `Gaussians.__call__`: (N, 1)."""
        dim, rank = measure.directions.shape
        centred = self.node("Sub", features, measure.mean)
        inside = self.node("MatMul", centred, measure.directions)
        white = self.node("MatMul", inside, measure.whitening)
        cross = self.node("MatMul", white, -2 * measure.class_means.T)
        offsets = self.node("Add", cross, (measure.class_means**2).sum(axis=1))
        to_means = self.node("Add", offsets, self.squares(white, rank))
        nearest = self.graph.reduce("ReduceMin", to_means, [1], "fedlas_familiarity", keepdims=1)
        if not measure.residual_scale:
            return nearest
        back = self.node("MatMul", inside, measure.directions.T)
        left = self.node("Mul", self.node("Sub", centred, back), measure.residual_scale)
        return self.node("Add", nearest, self.squares(left, dim))

    def share(self, distance: str, familiarity: Familiarity) -> str:
        """Linear interpolation: the first value minus what each piece between two knots takes off.

        The filled part of a piece is clip(x, 0, 1) = 1 - relu(1 - relu(x)), which stays exact however large x is.
        """
        knots, values = familiarity.knots, familiarity.values
        over = self.node("Sub", distance, knots[None, :-1])
        filled = self.node("Relu", self.node("Mul", over, 1 / np.diff(knots)[None]))
        unfilled = self.node("Relu", self.node("Sub", 1.0, filled))
        # What is unfilled has not been taken off: value = last + Σ drop · unfilled.
        kept = self.node("MatMul", unfilled, -np.diff(values)[:, None])
        return self.node("Add", kept, values[-1])
