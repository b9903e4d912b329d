"""A plain, editable form of an ONNX graph: a list of nodes and a dictionary of constants; it knows no meaning."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.reading import standard_opset

Array = NDArray[Any]


@dataclass
class Graph:
    """Nodes in the order of their computation, constants by name, inputs with types, names of outputs."""

    nodes: list[NodeProto]
    constants: dict[str, Array]
    inputs: list[ValueInfoProto]
    outputs: list[str]
    opset: int
    opset_imports: list[OperatorSetIdProto]
    ir_version: int
    _counter: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @classmethod
    def from_model(cls, model: ModelProto) -> Graph:
        """The graph of a model without local functions; initialisers that are also inputs count as constants only."""
        # Copies, because arrays over a message's bytes are read-only, which PyTorch does not take.
        constants = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        return cls(
            nodes=[copy.deepcopy(node) for node in model.graph.node],
            constants=constants,
            inputs=[value for value in model.graph.input if value.name not in constants],
            outputs=[value.name for value in model.graph.output],
            opset=standard_opset(model),
            opset_imports=list(model.opset_import),
            ir_version=model.ir_version,
        )

    def copy(self) -> Graph:
        """An independent graph; the arrays are shared."""
        return Graph(
            [copy.deepcopy(node) for node in self.nodes], dict(self.constants), list(self.inputs), list(self.outputs),
            self.opset, self.opset_imports, self.ir_version, self._counter,
        )  # fmt: skip

    @property
    def input_names(self) -> list[str]:
        return [value.name for value in self.inputs]

    def producers(self) -> dict[str, NodeProto]:
        """Which node computes a tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[tuple[NodeProto, int]]]:
        """Which nodes read a tensor, and at which position."""
        readers: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.input):
                readers.setdefault(name, []).append((node, position))
        return readers

    def fresh(self, stem: str) -> str:
        """A name that no tensor of the graph has."""
        taken = {*self.constants, *self.input_names, *self.outputs}
        taken.update(name for node in self.nodes for name in (*node.input, *node.output))
        return next(name for name in (f"{stem}_{i}" for i in self._counter) if name not in taken)

    def add_constant(self, stem: str, value: Array) -> str:
        """Store a constant under a fresh name."""
        name = self.fresh(stem)
        self.constants[name] = value
        return name

    def cone(self, outputs: Iterable[str], stop: Iterable[str] = ()) -> list[NodeProto]:
        """The nodes that `outputs` need, in order; tensors in `stop` are taken as given."""
        needed, given = set(outputs), set(stop)
        kept: list[NodeProto] = []
        for node in reversed(self.nodes):
            if any(name in needed and name not in given for name in node.output if name):
                kept.append(node)
                needed.update(node.input)
        return kept[::-1]

    def prune(self, outputs: Sequence[str]) -> None:
        """Make `outputs` the graph's outputs and drop what they do not need."""
        self.outputs = list(outputs)
        self.nodes = self.cone(outputs)
        used = {name for node in self.nodes for name in node.input} | set(outputs)
        self.constants = {name: value for name, value in self.constants.items() if name in used}

    def replace_input(self, old: str, new: str) -> None:
        """Let every reader of `old` (and the outputs) read `new`."""
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new
        self.outputs = [new if name == old else name for name in self.outputs]

    def rename_input(self, old: str, new: str) -> None:
        """Give an input another name."""
        self.replace_input(old, new)
        for info in self.inputs:
            info.name = new if info.name == old else info.name

    def sort(self) -> None:
        """Put the nodes into an order of computation.

        Raises:
            UnsupportedModel: `corrupt` where a node reads a tensor that nothing computes, or nodes form a cycle.
        """
        ready = {"", *self.constants, *self.input_names}
        waiting, ordered = self.nodes, []
        while waiting:
            later = []
            for node in waiting:
                if all(name in ready for name in node.input):
                    ordered.append(node)
                    ready.update(node.output)
                else:
                    later.append(node)
            if len(later) == len(waiting):
                missing = next(name for name in later[0].input if name not in ready)
                raise UnsupportedModel("corrupt", f"node {later[0].op_type} reads {missing!r}, which nothing computes")
            waiting = later
        self.nodes = ordered

    def to_model(self, outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """The graph as a model with the upload's IR version and opsets."""
        initializers = [
            numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in self.constants.items()
        ]
        graph: GraphProto = helper.make_graph(self.nodes, "fedlas", self.inputs, outputs, initializers)
        model: ModelProto = helper.make_model(graph, opset_imports=self.opset_imports, producer_name="fedlas")
        model.ir_version = self.ir_version
        return model


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """One attribute's value, or the default."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Set one attribute, or remove it with None."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])
