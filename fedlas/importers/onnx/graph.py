"""The graph: a plain, editable form of an ONNX graph, with a list of nodes and a dictionary of constants."""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.parse.parsing import standard_opset

Array = NDArray[Any]
Shape = tuple[int, ...]
#: The shapes of tensors by name.
Shapes = Mapping[str, Shape]
T = TypeVar("T")
#: The values that an attribute of a node may hold.
Attribute = int | float | str | bytes | Sequence[int] | Sequence[float] | Sequence[str]
_RAW = frozenset(f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)) | {"bool"}


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
    _taken: set[str] | None = field(default=None, repr=False)

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
        return replace(
            self,
            nodes=[copy.deepcopy(node) for node in self.nodes],
            constants=dict(self.constants),
            inputs=list(self.inputs),
            outputs=list(self.outputs),
            _taken=None,
        )

    @property
    def input_names(self) -> list[str]:
        return [value.name for value in self.inputs]

    def producers(self) -> dict[str, NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[tuple[NodeProto, int]]]:
        """The nodes that read a tensor, each with the position."""
        readers: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.input):
                readers.setdefault(name, []).append((node, position))
        return readers

    def fresh(self, stem: str) -> str:
        """A name that no tensor of the graph has: `stem` with a number that no other fresh name has."""
        # Collected once, not per call: names that come later are fresh ones, whose numbers differ, or bear no number.
        if self._taken is None:
            self._taken = {*self.constants, *self.input_names, *self.outputs}
            self._taken.update(name for node in self.nodes for name in (*node.input, *node.output))
        taken = self._taken
        return next(name for name in (f"{stem}_{i}" for i in self._counter) if name not in taken)

    def add_constant(self, stem: str, value: Array) -> str:
        name = self.fresh(stem)
        self.constants[name] = value
        return name

    def append(
        self, op_type: str, inputs: Sequence[str], stem: str = "", *, output: str = "", **attributes: Attribute
    ) -> str:
        """Add a node at the end; returns the name of its output, a fresh one made of `stem` where it is not given."""
        output = output or self.fresh(stem)
        self.nodes.append(make_node(op_type, inputs, [output], **attributes))
        return output

    def reduce(
        self, op_type: str, source: str, axes: Sequence[int], stem: str = "", *, output: str = "", keepdims: int = 0
    ) -> str:
        """Add a reduction other than ReduceSum, whose axes became an input in operator set 18."""
        if self.opset < 18:
            return self.append(op_type, [source], stem, output=output, axes=list(axes), keepdims=keepdims)
        places = self.add_constant("fedlas_axes", np.array(axes, np.int64))
        return self.append(op_type, [source, places], stem, output=output, keepdims=keepdims)

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

    def rename(self, names: Mapping[str, str]) -> None:
        for node in self.nodes:
            rename_tensors(node, names)
        self.constants = {names.get(name, name): value for name, value in self.constants.items()}

    def replace_input(self, old: str, new: str) -> None:
        """Let every reader of `old` (and the outputs) read `new`."""
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new
        self.outputs = [new if name == old else name for name in self.outputs]

    def sort(self) -> None:
        """Put the nodes into an order of computation, each near to its place; raises UnsupportedModel (`corrupt`)."""
        ready = {"", *self.constants, *self.input_names}
        missing = [len({name for name in node.input if name not in ready}) for node in self.nodes]
        readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in {name for name in node.input if name not in ready}:
                readers.setdefault(name, []).append(i)
        waiting = [i for i, count in enumerate(missing) if not count]  # in order, so a heap already
        ordered: list[NodeProto] = []
        while waiting:
            node = self.nodes[heapq.heappop(waiting)]
            ordered.append(node)
            for name in node.output:
                for reader in readers.pop(name, ()):
                    missing[reader] -= 1
                    if not missing[reader]:
                        heapq.heappush(waiting, reader)
        if readers:
            name, stuck = next((name, self.nodes[places[0]]) for name, places in readers.items())
            raise UnsupportedModel("corrupt", f"node {stuck.op_type} reads {name!r}, which nothing computes")
        self.nodes = ordered

    def to_model(self, outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """The graph as a model with the upload's IR version and opsets."""
        model = ModelProto(ir_version=self.ir_version, producer_name="fedlas")
        model.opset_import.extend(self.opset_imports)
        # Filled in place: the weights of a large network are copied once here, not once for each message around them.
        model.graph.name = "fedlas"
        model.graph.node.extend(self.nodes)
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(outputs)
        for name, value in self.constants.items():
            _fill(model.graph.initializer.add(), name, value)
        return model


def _fill(tensor: TensorProto, name: str, value: Array) -> None:
    if value.dtype.name in _RAW:
        tensor.name = name
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor.dims.extend(value.shape)
        tensor.raw_data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    else:  # text, and types of fewer than eight bits
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))


def make_node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Attribute) -> NodeProto:
    node = helper.make_node(op_type, inputs, outputs)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
    return node


def rename_tensors(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]


def attribute(node: NodeProto, name: str, default: T) -> T:
    """One attribute's value, which is of the default's type wherever the file keeps to the specification."""
    proto = _attribute(node, name)
    return default if proto is None else cast("T", helper.get_attribute_value(proto))


def integers(node: NodeProto, name: str) -> list[int] | None:
    return None if (proto := _attribute(node, name)) is None else list(proto.ints)


def floats(node: NodeProto, name: str) -> list[float] | None:
    return None if (proto := _attribute(node, name)) is None else list(proto.floats)


def integer(node: NodeProto, name: str) -> int | None:
    return None if (proto := _attribute(node, name)) is None else int(proto.i)


def tensor(node: NodeProto, name: str) -> TensorProto | None:
    return None if (proto := _attribute(node, name)) is None else proto.t


def _attribute(node: NodeProto, name: str) -> AttributeProto | None:
    return next((item for item in node.attribute if item.name == name), None)


def set_attribute(node: NodeProto, name: str, value: Attribute | TensorProto | None) -> None:
    """Set one attribute, or remove it with None."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])


def constant_derived(graph: Graph) -> set[str]:
    """The names of tensors that no input can change, not even by its shape."""
    derived = {"", *graph.constants}
    for node in graph.nodes:
        if node.input and all(name in derived for name in node.input):
            derived.update(node.output)
    return derived


def data_dependent(graph: Graph) -> set[str]:
    """The names of tensors that the values of the inputs can change (a shape alone does not)."""
    dependent = set(graph.input_names)
    for node in graph.nodes:
        if node.op_type not in ("Shape", "Size") and any(name in dependent for name in node.input):
            dependent.update(node.output)
    return dependent
