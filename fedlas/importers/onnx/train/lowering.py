"""The lowering of a graph to a `torch.fx.GraphModule` whose weights train, as far as a gradient reaches them.

Shapes are computed on the CPU and stay functions of the running batch; the constants that they are computed from stay
there too, wherever the module is moved. A weight behind a rounding, a comparison or a choice of indices gets no
gradient, or one that is zero everywhere: in training it would only shrink by weight decay, so it is no parameter.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch.nn.functional as F
from onnx import NodeProto
from torch import Tensor, nn
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import run_node
from fedlas.importers.onnx.graph import Array, Graph, attribute
from fedlas.importers.onnx.operators import node_has_gradient
from fedlas.importers.onnx.operators.table import as_tensor
from fedlas.importers.onnx.runtime import Call, call_of

#: Bytes that a graph may compute from its constants when it is imported; each tensor alone is bounded too.
MAX_FOLDED_BYTES = 2**32


class HostConstant(nn.Module):
    """A constant that stays on the CPU (a plain attribute: no parameter, no buffer)."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Tensor:
        return self.value


class BatchNormalization(nn.Module):
    """ONNX's BatchNormalization in any rank, with running statistics that training updates."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float, momentum: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(scale), nn.Parameter(bias)
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.epsilon = epsilon
        self.momentum = 1 - momentum  # ONNX weighs the old statistics, PyTorch the new batch

    def forward(self, x: Tensor) -> Tensor:
        # One value a channel has no variance: such a batch is normalised with the running statistics.
        batch = self.training and x.numel() > x.shape[1]
        mean, var, momentum = self.running_mean, self.running_var, self.momentum
        return F.batch_norm(x, mean, var, self.weight, self.bias, batch, momentum, self.epsilon)


def on_device(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.device)


@dataclass
class LoweredModule:
    """The module, and under which of its names each of the graph's weights and statistics lives."""

    module: GraphModule
    weights: dict[str, str]


@dataclass
class _LoweringState:
    graph: Graph
    weights: set[str]
    root: nn.Module = field(default_factory=nn.Module)
    fx: FxGraph = field(default_factory=FxGraph)
    places: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)  # no weights
    values: dict[str, Node] = field(default_factory=dict)
    on_host: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)  # the names of all tensors that a node or the caller reads
    folded_bytes: int = 0
    _made: dict[str, Node] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)

    def free_name(self, stem: str) -> str:
        base = re.sub(r"\W+", "_", stem).strip("_") or "tensor"
        base = base if base[0].isalpha() else f"p_{base}"
        name, i = base, self._used.get(base, 0)
        while hasattr(self.root, name):
            i += 1
            name = f"{base}_{i}"
        self._used[base] = i  # so that a thousand nameless layers are not tried one by one
        return name

    def weight(self, name: str) -> Node:
        if name not in self.values:
            attr = self.free_name(name)
            self.root.register_parameter(attr, nn.Parameter(tensor_copy(self.graph.constants[name])))
            self.places[name] = attr
            self.values[name] = self.fx.get_attr(attr)
        return self.values[name]

    def constant(self, name: str, *, on_host: bool) -> Node:
        if (key := f"{'host' if on_host else 'constant'}_{name}") not in self._made:
            attr = self.free_name(key)
            if on_host:
                self.root.add_module(attr, HostConstant(self.constants[name]))
                self._made[key] = self.fx.call_module(attr)
            else:
                self.root.register_buffer(attr, self.constants[name].clone(), persistent=False)
                self._made[key] = self.fx.get_attr(attr)
        return self._made[key]

    def is_weight(self, name: str) -> bool:
        return name in self.weights and name in self.graph.constants

    def argument(self, node: NodeProto, position: int, reference: str | None) -> Node | None:
        """One input of a node: as it is where it is read as numbers, else on the device of the others."""
        if not (name := node.input[position]):
            return None
        as_numbers = reference is None or position in call_of(node, self.graph.opset).host
        if name in self.constants:
            return self.constant(name, on_host=as_numbers)
        value = self.weight(name) if self.is_weight(name) else self.values[name]
        if name in self.on_host and not as_numbers:
            assert reference is not None
            like = self.weight(reference) if self.is_weight(reference) else self.values[reference]
            return self.fx.call_function(on_device, (value, like))
        return value


def tensor_copy(value: Array) -> Tensor:
    return as_tensor(np.array(value))


def lower(graph: Graph, inputs: Sequence[str], outputs: Sequence[str], weights: set[str]) -> LoweredModule:
    """The part of `graph` from `inputs` to `outputs` as a module that returns the tuple of outputs."""
    state = _LoweringState(graph, weights)
    state.constants = {n: as_tensor(v) for n, v in graph.constants.items() if n not in weights}
    for name in inputs:
        state.values[name] = state.fx.placeholder(re.sub(r"\W", "_", f"in_{name}"))
    nodes = graph.cone(outputs, stop=inputs)
    state.read = {name for node in nodes for name in node.input} | set(outputs)
    for node in nodes:
        _lower_node(state, node)
    # An output may be a weight or a constant (a graph that ignores its inputs); `argument` serves those too.
    state.fx.output(tuple(state.values[name] for name in outputs))
    state.fx.lint()
    return LoweredModule(GraphModule(state.root, state.fx), state.places)


def _lower_node(state: _LoweringState, node: NodeProto) -> None:
    device = [n for n in node.input if n and n not in state.constants and n not in state.on_host]
    if not device and all(name in state.constants for name in node.input if name) and node.input:
        _fold(state, node)
        return
    call, several = call_of(node, state.graph.opset), False
    if node.op_type == "BatchNormalization" and _trains(state, node):
        result = _batch_normalization(state, node)
    elif node.op_type == "Dropout" and not call.several:
        result = _dropout(state, node)
    else:
        result, several = _call(state, node, call, device), call.several
    for i, name in enumerate(node.output):
        if name and name in state.read:
            state.values[name] = state.fx.call_function(operator.getitem, (result, i)) if several else result
    if not device or node.op_type in ("Shape", "Size"):
        state.on_host.update(node.output)


def _fold(state: _LoweringState, node: NodeProto) -> None:
    known = {name: state.constants[name] for name in node.input if name}
    results = run_node(node, known, state.graph.opset)
    state.folded_bytes += sum(value.untyped_storage().nbytes() for value in results.values())
    if state.folded_bytes > MAX_FOLDED_BYTES:
        raise UnsupportedModel(
            "declared_size", f"the graph computes more than {MAX_FOLDED_BYTES} bytes from its constants alone"
        )
    state.constants.update(results)


def _call(state: _LoweringState, node: NodeProto, call: Call, device: list[str]) -> Node:
    # Where the first input is the one on the device, it is also the likeliest to be an activation.
    reference = device[0] if device else None
    arguments = [state.argument(node, position, reference) for position in range(len(node.input))]
    while arguments and arguments[-1] is None:
        arguments.pop()
    if isinstance(call.function, nn.Module):
        name = state.free_name(node.name or node.op_type)
        state.root.add_module(name, call.function)
        return state.fx.call_module(name, tuple(arguments))
    return state.fx.call_function(call.function, tuple(arguments), cast("dict[str, Argument]", dict(call.keywords)))


def _trains(state: _LoweringState, node: NodeProto) -> bool:
    """True where scale and bias are weights and the statistics constants, as in every trained network."""
    names = node.input[1:5]
    return all(state.is_weight(n) for n in names[:2]) and all(n in state.constants for n in names[2:])


def _batch_normalization(state: _LoweringState, node: NodeProto) -> Node:
    name = state.free_name(node.name or "batch_norm")
    scale, bias, mean, var = (tensor_copy(state.graph.constants[n]) for n in node.input[1:5])
    epsilon, momentum = attribute(node, "epsilon", 1e-5), attribute(node, "momentum", 0.9)
    state.root.add_module(name, BatchNormalization(scale, bias, mean, var, epsilon, momentum))
    for source, kind in zip(node.input[1:5], ("weight", "bias", "running_mean", "running_var"), strict=True):
        state.places[source] = f"{name}.{kind}"
    return state.fx.call_module(name, (state.argument(node, 0, node.input[0]),))


def _dropout(state: _LoweringState, node: NodeProto) -> Node:
    ratio = attribute(node, "ratio", 0.5)
    if len(node.input) > 1 and node.input[1] in state.constants:
        ratio = float(state.constants[node.input[1]])
    name = state.free_name(node.name or "dropout")
    state.root.add_module(name, nn.Dropout(min(ratio, 0.999)))
    return state.fx.call_module(name, (state.argument(node, 0, node.input[0]),))


def reachable_weights(graph: Graph, outputs: Iterable[str], weights: set[str]) -> set[str]:
    """Subset of `weights` on which `outputs` depend smoothly."""
    wanted = set(outputs)
    for node in reversed(graph.nodes):
        smooth = node.output[:1] if node.op_type == "TopK" else node.output  # the others are places
        if node_has_gradient(node) and any(name in wanted for name in smooth if name):
            wanted.update(node.input)
    return weights & wanted
