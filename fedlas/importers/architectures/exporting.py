"""The export of a PyTorch network as an ONNX graph: once; afterwards only its weights are put in.

Weights are the graph's inputs while it is simplified, so that none of them is folded into another constant: the same
graph then serves every copy of the network, and what two copies have in common is equal node by node.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from onnx import ModelProto, ValueInfoProto, helper
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Array, Graph

#: What PyTorch's exporter writes without converting (torch 2.9 to 2.13); the newest opset of both exporters.
OPSET, IR_VERSION = 20, 10
LOGITS, FEATURES = "network_logits", "network_features"
_INPUT, _WRAPPER = "input", "classifier."
_export = partial(torch.onnx.export, opset_version=OPSET, input_names=[_INPUT], output_names=[LOGITS, FEATURES])

#: A model, and which state each of its weights is.
Written = tuple[ModelProto, dict[str, str]]


@dataclass(frozen=True)
class ExportedGraph:
    """A graph without weights, which state each of its missing tensors is, and which exporter wrote it."""

    graph: Graph
    weights: Mapping[str, str]
    exporter: str

    def with_weights(self, network: nn.Module) -> Graph:
        """A copy of the graph with the weights of `network`."""
        graph = self.graph.copy()
        values = network.state_dict()
        for name, state in self.weights.items():
            graph.constants[name] = values[state].detach().cpu().numpy()
        return graph


def export(network: nn.Module, rows: Sequence[Array]) -> ExportedGraph:
    """The graph of a network on the CPU in inference that returns logits and features for one input, for any rows.

    By PyTorch's exporter of today; by its older one where that cannot.

    Raises:
        UnsupportedModel: `not_exportable` where neither can.
    """
    wrapped = _NamedOutputs(network).eval()
    example = torch.from_numpy(rows[0])
    # Parameters and running statistics; tables that no file holds are constants of the graph.
    states = [name for name, value in network.state_dict().items() if value.is_floating_point()]
    failures = []
    for title, exporter in _EXPORTERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter about itself, and of tracing about Python's ifs
                model, names = exporter(wrapped, example, states)
            return _separated(model, names, title)
        except Exception as error:  # the exporters raise whatever they run into
            failures.append(f"{title}: {type(error).__name__}: {str(error)[:150]}")
    raise UnsupportedModel("not_exportable", f"PyTorch cannot write the network as ONNX ({'; '.join(failures)})")


class _NamedOutputs(nn.Module):
    """Gives the input its name: the exporter reads it from the signature."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.classifier(input)
        return logits, features


def _by_dynamo(network: nn.Module, example: Tensor, states: Sequence[str]) -> Written:
    import onnx_ir  # a second of imports, which only weights without a graph need

    rows = ({0: torch.export.Dim("N")},)
    program = _export(network, (example,), dynamo=True, dynamic_shapes=rows, optimize=False, verbose=False)
    assert program is not None
    graph = program.model.graph
    found = [name for name in states if _WRAPPER + name in graph.initializers]
    for name in found:
        value = graph.initializers.pop(_WRAPPER + name)
        value.const_value = None
        value.name = name  # without the wrapper: simplifying gives some new constants the old names
        graph.inputs.append(value)
    program.optimize()
    return onnx_ir.to_proto(program.model), {name: name for name in found}


def _by_torchscript(network: nn.Module, example: Tensor, states: Sequence[str]) -> Written:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        rows, mode = {_INPUT: {0: "N"}}, torch.onnx.TrainingMode.PRESERVE
        _export(network, (example,), path, dynamo=False, dynamic_axes=rows, training=mode, do_constant_folding=False)
        return ModelProto.FromString(path.read_bytes()), {_WRAPPER + name: name for name in states}


_EXPORTERS: dict[str, Callable[[nn.Module, Tensor, Sequence[str]], Written]] = {
    "torch.export": _by_dynamo,
    "TorchScript": _by_torchscript,
}


def _separated(model: ModelProto, names: Mapping[str, str], exporter: str) -> ExportedGraph:
    """The graph, of which weights are no part; it must be in the versions that we promise."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET or model.ir_version > IR_VERSION:
        raise ValueError(f"opset {versions} and IR version {model.ir_version}, {OPSET} and {IR_VERSION} are needed")
    model.ir_version = IR_VERSION
    graph = Graph.from_model(model)
    if double := set(graph.producers()) & set(names):
        raise ValueError(f"nodes compute what should be weights: {sorted(double)[:3]}")
    for node in graph.nodes:
        node.doc_string = ""
        del node.metadata_props[:]
    graph.constants = {name: value for name, value in graph.constants.items() if name not in names}
    graph.inputs = [_with_open_rows(value) for value in graph.inputs if value.name not in names]
    used = {name for node in graph.nodes for name in node.input}
    return ExportedGraph(graph, {name: state for name, state in names.items() if name in used}, exporter)


def _with_open_rows(value: ValueInfoProto) -> ValueInfoProto:
    """The input with its sizes and `N` rows, without what the exporter notes about it."""
    tensor = value.type.tensor_type
    return helper.make_tensor_value_info(
        value.name, tensor.elem_type, ["N", *(dim.dim_value for dim in tensor.shape.dim[1:])]
    )
