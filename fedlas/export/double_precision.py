"""A graph in double precision: what ONNX Runtime computes of it where float32 rounds as little as possible.

Every float32 tensor becomes a float64 one. Operators that ONNX Runtime has in float32 alone (convolutions, most of
what is fused) stay between two casts, which round their inputs and outputs and nothing else.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper
from onnxruntime import InferenceSession

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph, set_attribute
from fedlas.importers.onnx.runtime_session import GraphSession, not_runnable, open_session

#: Protocol Buffers, ONNX's container, ends at 2 GiB; some room for the nodes.
MAX_WEIGHT_BYTES = 2**31 - 2**24
#: How ONNX Runtime names an operator that it lacks in double precision: for want of a kernel, or of a type.
_LACKING = re.compile(r"implementation for (?:[\w.]+\.)?(\w+)\(|input parameter \(.*?\) of operator \((\w+)\)")
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def open_in_double(graph: Graph, outputs: Sequence[str]) -> InferenceSession:
    """A session of the graph in double precision with these `outputs`, float64 here and float32 in the graph.

    Raises:
        UnsupportedModel: `not_runnable` where the graph has no such form: it has branches or loops, its weights would
            not fit into a file, or ONNX Runtime refuses it for something else than an operator that it lacks.
    """
    if any(item.type in _SUBGRAPHS for node in graph.nodes for item in node.attribute):
        raise UnsupportedModel("not_runnable", "branches and loops have no form in double precision")
    if 2 * sum(value.nbytes for value in graph.constants.values()) > MAX_WEIGHT_BYTES:
        raise UnsupportedModel("not_runnable", "in double precision the weights do not fit into an ONNX file")
    floats, single = _float32_tensors(graph), set[str]()
    while True:
        made = in_double(graph, floats, single)
        shown = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs]
        try:
            return open_session(made.to_model(shown).SerializeToString(), optimised=False)
        except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
            found = _LACKING.search(str(error))
            lacking = "" if found is None else found[1] or found[2]
            if not lacking or lacking in single:
                raise not_runnable(error) from error
            single.add(lacking)


def in_double(graph: Graph, floats: Collection[str], single: Collection[str]) -> Graph:
    """A copy of the graph in which the tensors `floats`, float32 here, are float64, but for its inputs.

    Args:
        single: the types of operators that stay in float32.
    """
    made = graph.copy()
    made.nodes = []
    made.constants = {name: v.astype(np.float64) if name in floats else v for name, v in graph.constants.items()}
    doubled = {name: _cast(made, name, TensorProto.DOUBLE) for name in graph.input_names if name in floats}
    for node in map(copy.deepcopy, graph.nodes):
        reads_float32 = any(name in floats for name in node.input)
        makes_float32 = any(name in floats for name in node.output)
        node.input[:] = [doubled.get(name, name) for name in node.input]
        if node.op_type == "Cast" and makes_float32:
            set_attribute(node, "to", TensorProto.DOUBLE)
            made.nodes.append(node)
        elif node.op_type in single or (makes_float32 and not reads_float32):
            _append_single(made, node, {*floats, *doubled.values()})
        else:
            made.nodes.append(node)
    return made


def _append_single(graph: Graph, node: NodeProto, doubles: Collection[str]) -> None:
    """Append a node that computes in float32 what it reads from and writes to `doubles`."""
    wanted = list(node.output)
    node.input[:] = [_cast(graph, name, TensorProto.FLOAT) if name in doubles else name for name in node.input]
    node.output[:] = [graph.fresh("fedlas_single") if name in doubles else name for name in wanted]
    graph.nodes.append(node)
    for single, name in zip(node.output, wanted, strict=True):
        if name in doubles:
            graph.append("Cast", [single], output=name, to=TensorProto.DOUBLE)


def _cast(graph: Graph, name: str, kind: int) -> str:
    return graph.append("Cast", [name], "fedlas_cast", to=kind)


def _float32_tensors(graph: Graph) -> set[str]:
    """The names of all float32 tensors: constants, inputs, and what ONNX Runtime says that nodes compute."""
    computed = GraphSession(graph, [name for node in graph.nodes for name in node.output if name], typed=False)
    found = {value.name for value in computed.session.get_outputs() if value.type == "tensor(float)"}
    found |= {name for name, value in graph.constants.items() if value.dtype == np.float32}
    return found | {v.name for v in graph.inputs if v.type.tensor_type.elem_type == TensorProto.FLOAT}
