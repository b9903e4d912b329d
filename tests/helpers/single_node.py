"""Graphs of one operator: computed by the operator table and by ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import NodeProto, helper, numpy_helper

from fedlas.data.dataset import Array
from fedlas.importers.onnx.evaluator import run_node
from fedlas.importers.onnx.operators import OPERATORS, operator_name


def random_floats(seed: int) -> Callable[..., Array]:
    """A function that makes normal numbers of a given shape, other ones with every call."""
    rng = np.random.default_rng(seed)
    return lambda *shape: np.asarray(rng.standard_normal(shape), np.float32)


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)


@dataclasses.dataclass(frozen=True)
class Case:
    """One operator with its inputs (None where left out), attributes and number of outputs (names where some are)."""

    op: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    opset: int = 17
    outputs: int | tuple[str, ...] = 1
    domain: str = ""

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}"

    @property
    def node(self) -> NodeProto:
        names = ["" if value is None else f"i{k}" for k, value in enumerate(self.inputs)]
        outputs = [f"o{k}" for k in range(self.outputs)] if isinstance(self.outputs, int) else list(self.outputs)
        return helper.make_node(self.op, names, outputs, domain=self.domain, **self.attributes)

    @property
    def given(self) -> dict[str, Array]:
        return {f"i{k}": np.asarray(value) for k, value in enumerate(self.inputs) if value is not None}


def by_table(case: Case) -> list[Array]:
    values = {name: torch.from_numpy(np.array(value)) for name, value in case.given.items()}
    return [value.numpy() for value in run_node(case.node, values, case.opset).values()]


def by_onnx_runtime(case: Case) -> list[Array]:
    """All inputs but the first are constants, as shapes and weights are."""
    (first, value), *rest = case.given.items()
    info = helper.make_tensor_value_info(first, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    constants = [numpy_helper.from_array(array, name) for name, array in rest]
    outputs = [helper.make_empty_tensor_value_info(name) for name in case.node.output if name]
    graph = helper.make_graph([case.node], "g", [info], outputs, constants)
    domains = [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Optimised, a node of known inputs would be computed by other kernels than those that serve.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, {first: value})]


def assert_agrees(case: Case, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """The table's outputs have ONNX Runtime's shapes, types and values."""
    ours, expected = by_table(case), by_onnx_runtime(case)
    assert len(ours) >= len(expected)
    for value, reference in zip(ours, expected, strict=False):
        assert value.shape == reference.shape
        assert value.dtype == reference.dtype
        np.testing.assert_allclose(value, reference, rtol=rtol, atol=atol)


def assert_differentiable(case: Case) -> None:
    """The gradient of the float outputs by the float inputs is not zero and equals finite differences."""
    given = {name: torch.from_numpy(np.array(value)) for name, value in case.given.items()}
    wide = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
    host = {name for k, name in enumerate(case.node.input) if k in OPERATORS[operator_name(case.node)].host}
    names = [name for name, value in wide.items() if value.is_floating_point() and value.ndim and name not in host]
    inputs = tuple(wide[name].requires_grad_() for name in names)

    def outputs(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = run_node(case.node, wide | dict(zip(names, values, strict=True)), case.opset)
        return tuple(value for value in found.values() if value.is_floating_point())

    weights = torch.linspace(1, 2, sum(value.numel() for value in outputs(*inputs)), dtype=torch.float64)
    total = torch.cat([value.reshape(-1) for value in outputs(*inputs)]) @ weights
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    assert any(grad is not None and bool((grad != 0).any()) for grad in grads)
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
