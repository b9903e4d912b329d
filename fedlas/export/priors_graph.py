"""Class priors as ONNX: a constant that shifts the calibrated logits, and the bytes that make an input of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper

from fedlas.deployment import CLASS_PRIORS, ClassPriors

if TYPE_CHECKING:  # scores are calibrated without PyTorch
    from fedlas.importers.onnx.graph import Graph

#: In older files a runtime takes an input with an initialiser for a constant.
_OVERRIDABLE_SINCE = 4


def append_priors(graph: Graph, priors: ClassPriors, logits: str) -> tuple[str, bytes]:
    """Nodes from calibrated logits (N, K) to those at the priors; returns their name, and the `priors_input`.

    The ratio is taken first: where the priors are the shares it is exactly one, so that nothing is added.
    """
    name = graph.fresh(CLASS_PRIORS) if CLASS_PRIORS in graph.input_names else CLASS_PRIORS
    graph.ir_version = max(graph.ir_version, _OVERRIDABLE_SINCE)
    graph.constants[name] = priors.default.astype(np.float32)
    shares = graph.add_constant("fedlas_class_shares", priors.shares.astype(np.float32))
    shift = graph.append("Log", [graph.append("Div", [name, shares], "fedlas_prior_ratio")], "fedlas_prior_shift")
    return graph.append("Add", [logits, shift], "fedlas_shifted_logits"), priors_input(len(priors.default), name)


def priors_input(num_classes: int, name: str = CLASS_PRIORS) -> bytes:
    """What stands behind the bytes of a file whose constant `name` (K,) is an input, with that constant as default.

    ONNX Runtime folds a constant, and warns of an input with a default whenever it opens a file. Bytes of two messages
    one after the other are one message: https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, [num_classes])
    return bytes(ModelProto(graph=GraphProto(input=[given])).SerializeToString())
