"""The ONNX project's own backend tests: the cases whose operators the table claims, and those that are skipped."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from packaging.version import Version
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.table import as_tensor, torch_dtype
from fedlas.importers.onnx.parse.parsing import standard_opset
from fedlas.importers.onnx.rewrite.normalise import hoist_constants
from fedlas.importers.onnx.runtime import is_runtime_node

_UNSIGNED = "PyTorch casts unsigned numbers of 16 to 64 bits, but does not calculate with them"
#: Since PyTorch 2.15 it compares such numbers for the larger and the smaller one.
_EXTREMES = ("max", "min") if Version(torch.__version__) < Version("2.15") else ()
_CORNERS = (
    "ONNX Runtime, which serves, lets whole sizes decide where corners lie, as PyTorch does; the case lets scales"
)
_HALF = "the last bit of float16, which the importer turns into float32 before it computes anything"
#: Cases of claimed operators that are not expected to agree, by name, and why.
SKIPPED: dict[str, str] = {
    **dict.fromkeys(
        (
            f"test_{name}_uint{bits}"
            for name in (*_EXTREMES, "add", "sub", "div", "mod", "greater", "less", "greater_equal", "less_equal")
            for bits in (16, 32, 64)
        ),
        _UNSIGNED,
    ),
    **dict.fromkeys(
        (f"test_{name}_equal_uint{bits}_expanded" for name in ("greater", "less") for bits in (16, 32, 64)), _UNSIGNED
    ),
    "test_bitwise_not_3d": _UNSIGNED,
    "test_resize_downsample_scales_linear_align_corners": _CORNERS,
    "test_resize_downsample_scales_cubic_align_corners": _CORNERS,
    "test_attention_4d_fp16": _HALF,
    "test_attention_4d_causal_fp16": _HALF,
    "test_attention_4d_causal_fp16_expanded": _HALF,
}
#: Operators whose output's size depends on values, so that shapes alone do not tell it.
COUNTING = {"Compress", "NonZero"}


@dataclass(frozen=True)
class Case:
    """One test of the ONNX project: a small model, its inputs, its outputs and how close to them is close enough."""

    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float

    @property
    def nodes(self) -> list[NodeProto]:
        return [node for node in self.model.graph.node if node.op_type != "Constant"]

    @property
    def operators(self) -> set[str]:
        return {operator_name(node) for node in self.nodes}

    def graph(self) -> Graph:
        graph = Graph.from_model(self.model)
        hoist_constants(graph)
        return graph

    def tensors(self, graph: Graph) -> dict[str, Tensor]:
        return {v.name: as_tensor(np.array(x)) for v, x in zip(graph.inputs, self.inputs, strict=True)}


@functools.cache
def claimed() -> list[Case]:
    """All cases whose nodes the table has functions for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators divide by zero on purpose
        generated = collect_testcases(None)
    found = [Case(c.name, c.model, *map(arrays, c.data_sets[0]), c.rtol, c.atol) for c in generated]
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        found += [from_folder(Path(case.model_dir), case.rtol, case.atol) for case in load_model_tests(kind=kind)]
    return [case for case in found if case.operators <= OPERATORS.keys() and not any(map(is_runtime_node, case.nodes))]


def arrays(values: list[Any]) -> list[Any]:
    """The cases of Cast hold their values as messages."""
    return [numpy_helper.to_array(value) if isinstance(value, TensorProto) else value for value in values]


def from_folder(folder: Path, rtol: float, atol: float) -> Case:
    values = [
        [read(path) for path in sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"))]
        for kind in ("input", "output")
    ]
    return Case(folder.name, onnx.load(folder / "model.onnx"), values[0], values[1], rtol, atol)


def read(path: Path) -> Any:
    return numpy_helper.to_array(TensorProto.FromString(path.read_bytes()))


def out_of_scope(case: Case) -> str | None:
    """The reason that a case asks for what no claim is made about; None where it is in scope."""
    if standard_opset(case.model) < 7:
        return "operator sets below 7"
    if not all(computable(value) for value in [*case.inputs, *case.outputs]):
        return "strings, sequences, numbers of 2 to 8 bits with a point or of 2 to 4 bits"
    return None


def computable(value: Any) -> bool:
    if not isinstance(value, np.ndarray | np.generic | float | int):
        return False
    try:
        torch_dtype(onnx.helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype))
    except (UnsupportedModel, ValueError, KeyError):
        return False
    return True
