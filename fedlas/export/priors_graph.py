"""Class priors as ONNX: an input with a default, which shifts the calibrated logits."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from fedlas.deployment import CLASS_PRIORS, ClassPriors
from fedlas.importers.onnx.graph import Graph

#: In older files a runtime takes an input with an initialiser for a constant.
_OVERRIDABLE_SINCE = 4


def append_priors(graph: Graph, priors: ClassPriors, logits: str) -> tuple[str, str]:
    """Nodes from calibrated logits (N, K) to those at the priors; returns their name and that of the input to be.

    The ratio is taken first: where the priors are the shares it is exactly one, so that nothing is added.
    """
    name = graph.fresh(CLASS_PRIORS) if CLASS_PRIORS in graph.input_names else CLASS_PRIORS
    graph.constants[name] = priors.default.astype(np.float32)
    shares = graph.add_constant("fedlas_class_shares", priors.shares.astype(np.float32))
    ratio = graph.append("Div", [name, shares], "fedlas_prior_ratio")
    shift = graph.append("Log", [ratio], "fedlas_prior_shift")
    return graph.append("Add", [logits, shift], "fedlas_shifted_logits"), name


def declare_priors(model: ModelProto, name: str, num_classes: int) -> None:
    """Make a constant (K,) of the model an input of it, whose default it then is."""
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [num_classes]))
    model.ir_version = max(model.ir_version, _OVERRIDABLE_SINCE)
