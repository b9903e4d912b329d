"""The graph builder: collects the standard nodes and constants that replace those of `ai.onnx.ml`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from fedlas.importers.onnx.graph import Array, Attribute, make_node
from fedlas.importers.onnx.parsing import standard_opset


class NoEquivalent(Exception):
    """This node computes what no standard operators of the model's opset compute."""


class GraphBuilder:
    """Collects the nodes and constants that replace one node after the other."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.opset = standard_opset(model)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        self.float32 = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.sums_to_one: set[str] = set()
        self.sigmoids: dict[str, str] = {}  # σ(z) of each class against the rest → z
        self.nodes: list[NodeProto] = []
        self.made: list[TensorProto] = []
        self._taken = {*self.constants, *self.read, *(name for node in graph.node for name in node.output)}
        self._taken.update(value.name for value in graph.input)

    def name(self, stem: str) -> str:
        """A name that no tensor has."""
        fresh, i = stem, 0
        while fresh in self._taken:
            fresh, i = f"{stem}_{i}", i + 1
        self._taken.add(fresh)
        return fresh

    def constant(self, value: Array, stem: str = "fedlas_classical") -> str:
        """A new constant."""
        name = self.name(stem)
        self.made.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def number(self, value: float) -> str:
        """A new float32 constant of one element."""
        return self.constant(np.array([value], np.float32))

    def add(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Attribute) -> str:
        """Write a node; returns the name of its output."""
        output = output or self.name("fedlas_classical")
        self.nodes.append(make_node(op_type, inputs, [output], **attributes))
        return output

    def as_float(self, name: str) -> str:
        """`name` as float32: the operators of `ai.onnx.ml` take any numbers and give float32."""
        return name if name in self.float32 else self.add("Cast", [name], to=TensorProto.FLOAT)

    def is_one(self, name: str) -> bool:
        """Whether a tensor is the constant 1."""
        known = self.constants.get(name)
        return known is not None and bool(np.all(numpy_helper.to_array(known) == 1))

    def softmax(self, scores: str, output: str) -> None:
        """Probabilities over the classes."""
        self.add("Softmax", [scores], output, axis=1)
        self.sums_to_one.add(output)

    def unsqueeze(self, name: str) -> str:
        """`name` with a last axis of one."""
        if self.opset < 11:
            raise NoEquivalent
        if self.opset < 13:
            return self.add("Unsqueeze", [name], axes=[-1])
        return self.add("Unsqueeze", [name, self.constant(np.array([-1], np.int64))])

    def reduce(self, op_type: str, name: str) -> str:
        """ReduceMax, ReduceL1 or ReduceL2 over the columns; axes became an input in opset 18."""
        if self.opset < 18:
            return self.add(op_type, [name], axes=[1], keepdims=1)
        return self.add(op_type, [name, self.constant(np.array([1], np.int64))], keepdims=1)
