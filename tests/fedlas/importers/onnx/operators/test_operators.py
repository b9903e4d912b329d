"""Every function of the operator table computes what ONNX Runtime computes for a graph of that one operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, defs, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import run_node
from fedlas.importers.onnx.operators import OPERATORS, node_has_gradient
from fedlas.importers.onnx.operators.table import words
from tests.helpers.refusals import refusal
from tests.helpers.single_node import Case, assert_agrees, assert_differentiable, ints, random_floats

floats = random_floats(0)
X, IMAGE, LINE = floats(3, 4), floats(2, 4, 7, 7), floats(2, 4, 9)
#: Cases that neither the ONNX project's own (`test_node_tests`) nor those of several operator sets try.
CASES = [
    *(Case(op, (X,)) for op in ("Celu", "Shrink", "ArgMax", "ArgMin")),
    Case("Clip", (X,), {"min": -0.2, "max": 0.3}, opset=10),
    Case("Cast", (X,), {"to": TensorProto.BOOL}),
    Case("ReduceMean", (X,), {"noop_with_empty_axes": 1}, opset=18),
    Case("ReduceProd", (floats(2, 3, 4),), {"axes": [0, 2]}),
    Case("Split", (floats(6, 2),), {"split": [2, 4]}, opset=11, outputs=2),
    Case("Split", (floats(5, 2),), {"num_outputs": 2}, opset=18, outputs=2),
    Case("Slice", (X,), {"starts": [1], "ends": [3], "axes": [0]}, opset=9),
    Case("Pad", (X,), {"pads": [0, 1, 0, 1], "value": 2.0}, opset=10),
    Case("Einsum", (X, floats(4, 2)), {"equation": "ij,jk->ki"}),
    Case("Gemm", (X, floats(3, 5), floats(4, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Conv", (IMAGE, floats(6, 2, 3, 3), floats(6)), {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    Case("Conv", (LINE, floats(5, 4, 3)), {"dilations": [2], "pads": [2, 2]}),
    Case(
        "ConvTranspose",
        (IMAGE, floats(4, 3, 3, 3), floats(3)),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Case("ConvTranspose", (LINE, floats(4, 2, 4)), {"strides": [2], "pads": [0, 1], "group": 2}),
    Case("MaxPool", (LINE,), {"kernel_shape": [3], "dilations": [2]}),
    Case("LayerNormalization", (floats(2, 3, 4), floats(4), floats(4)), {"epsilon": 1e-3}),
    Case("LayerNormalization", (floats(2, 3, 4), floats(3, 4)), {"axis": 1}),
    Case("LRN", (IMAGE,), {"size": 3, "alpha": 0.1}),
    Case(
        "Attention",
        (floats(2, 5, 8), floats(2, 6, 8), floats(2, 6, 8)),
        {"q_num_heads": 2, "kv_num_heads": 2},
        opset=23,
    ),
    *(
        Case(
            "Resize",
            (IMAGE, None, None, ints(2, 4, 10, 14)),
            {"mode": "linear", "coordinate_transformation_mode": mode},
        )
        for mode in ("half_pixel", "align_corners", "pytorch_half_pixel")
    ),
    Case(
        "Resize",
        (IMAGE, None, np.array([1, 1, 1.5, 2], np.float32)),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    Case("Resize", (IMAGE, None, None, ints(2, 4, 10, 5)), {"mode": "cubic", "cubic_coeff_a": -0.75}),
    Case("Upsample", (IMAGE, np.array([1, 1, 2, 3], np.float32)), opset=9),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_onnx_runtime(case: Case) -> None:
    """The function's outputs have ONNX Runtime's shapes, types and values."""
    assert_agrees(case)


MICROSOFT = "com.microsoft"
TOKENS = floats(2, 5, 8)
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
HEADS = {"num_heads": 2}
FUSED = [  # what ONNX Runtime's optimiser makes of transformers and convolutions
    Case("Gelu", (X,), domain=MICROSOFT),
    Case("FastGelu", (X, floats(4)), domain=MICROSOFT),
    Case("BiasGelu", (X, floats(4)), domain=MICROSOFT),
    Case("QuickGelu", (X,), domain=MICROSOFT),
    Case("QuickGelu", (X,), {"alpha": 1.0}, domain=MICROSOFT),
    Case("FusedMatMul", (floats(2, 4, 3), floats(2, 5, 4)), {"alpha": 0.5, "transA": 1, "transB": 1}, domain=MICROSOFT),
    Case("FusedConv", (IMAGE, floats(2, 4, 3, 3), floats(2)), {"activation": "Relu"}, domain=MICROSOFT),
    Case(
        "FusedConv",
        (IMAGE, floats(2, 4, 3, 3), floats(2)),
        {"activation": "LeakyRelu", "activation_params": [0.2], "pads": [1, 1, 1, 1]},
        domain=MICROSOFT,
    ),
    Case("FusedGemm", (X, floats(5, 4), floats(5)), {"activation": "Relu", "transB": 1}, domain=MICROSOFT),
    Case(
        "FusedGemm",
        (X, floats(4, 5)),
        {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5},
        domain=MICROSOFT,
    ),
    Case("SimplifiedLayerNormalization", (floats(2, 3, 4), floats(4))),
    Case("SkipLayerNormalization", (TOKENS, floats(2, 5, 8), floats(8), floats(8), floats(8)), domain=MICROSOFT),
    Case(
        "SkipLayerNormalization",
        (TOKENS, floats(2, 5, 8), floats(8)),
        {"epsilon": 1e-3},
        outputs=("o0", "", "", "o3"),
        domain=MICROSOFT,
    ),
    Case("SkipSimplifiedLayerNormalization", (TOKENS, floats(2, 5, 8), floats(8)), domain=MICROSOFT),
    *(
        Case("Attention", (TOKENS, floats(8, 24), floats(24), mask), HEADS | extra, domain=MICROSOFT)
        for mask, extra in (
            (None, {}),
            (MASK, {}),
            (np.array([3, 5], np.int32), {}),
            (None, {"unidirectional": 1, "scale": 0.3}),
        )
    ),
    *(
        Case("MultiHeadAttention", (TOKENS, floats(2, 6, 8), floats(2, 6, 8), *extra), HEADS, domain=MICROSOFT)
        for extra in ((), (floats(24),), (None, None, floats(1, 2, 5, 6)))
    ),
    Case("MultiHeadAttention", (TOKENS, TOKENS, TOKENS, None, MASK), HEADS, domain=MICROSOFT),
    Case(
        "EmbedLayerNormalization",
        (
            np.array([[1, 2, 3], [4, 0, 1]], np.int32),
            np.array([[0, 0, 1], [0, 1, 1]], np.int32),
            floats(6, 4),
            floats(3, 4),
            floats(2, 4),
            floats(4),
            floats(4),
            np.array([[1, 1, 0], [1, 1, 1]], np.int32),
        ),
        outputs=2,
        domain=MICROSOFT,
    ),
]


@pytest.mark.parametrize("case", FUSED, ids=str)
def test_fused_operators_agree_with_onnx_runtime_and_train(case: Case) -> None:
    """Operators of ONNX Runtime's optimiser compute what it computes, with a gradient."""
    assert_agrees(case)
    assert_differentiable(case)


@pytest.mark.parametrize(
    "case",
    [
        Case("Mish", (X,), opset=18),
        Case("Trilu", (X,)),
        Case("Cast", (X,), {"to": TensorProto.DOUBLE}),
        Case("CastLike", (X, np.zeros(1, np.float64))),
        Case("Upsample", (LINE, np.array([1, 1, 2.5], np.float32)), {"mode": "linear"}, opset=9),
    ],
    ids=str,
)
def test_gradients_that_no_backend_test_shows(case: Case) -> None:
    """Operators without a suitable case among the ONNX project's tests can be differentiated as well."""
    assert_differentiable(case)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("BatchNormalization", ["i0"] + 4 * ["i1"], ["o0"], spatial=0),
        helper.make_node("Conv", ["i0", "i1"], ["o0"], padding_mode="circular"),
    ],
)
def test_options_that_are_not_supported_are_named(node: Any) -> None:
    """An operator used in a way that would silently compute something else is refused."""
    values = {"i0": torch.ones(1, 1, 3, 3), "i1": torch.tensor([1.0, 1.0, 1.5, 1.5])}
    with refusal(UnsupportedModel, "unsupported_operator"):
        run_node(node, values, 17)


LARGE = torch.zeros(100_000)
MILLION = torch.tensor([10**6])


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (helper.make_node("ConstantOfShape", ["a"], ["y"]), [torch.tensor([10**5, 10**5])]),
        (helper.make_node("Range", ["a", "b", "c"], ["y"]), [torch.tensor(0), torch.tensor(10**10), torch.tensor(1)]),
        (helper.make_node("Expand", ["a", "b"], ["y"]), [torch.zeros(1), torch.tensor([10**5, 10**5])]),
        (helper.make_node("Tile", ["a", "b"], ["y"]), [torch.zeros(10), torch.tensor([10**9])]),
        (helper.make_node("OneHot", ["a", "b", "c"], ["y"]), [LARGE.long(), MILLION, torch.zeros(2)]),
        (helper.make_node("Pad", ["a", "b"], ["y"]), [torch.zeros(1), torch.tensor([10**10, 0])]),
        (helper.make_node("Pad", ["a", "b"], ["y"], mode="edge"), [torch.zeros(1), torch.tensor([10**10, 0])]),
        (helper.make_node("Resize", ["a", "", "b"], ["y"]), [torch.zeros(1, 1, 2, 2), torch.tensor([1, 1, 5e4, 5e4])]),
        (helper.make_node("Upsample", ["a", "b"], ["y"]), [torch.zeros(1, 1, 2), torch.tensor([1, 1, 1e10])]),
        (helper.make_node("Conv", ["a", "b"], ["y"], pads=[10**10, 0]), [torch.zeros(1, 1, 3), torch.zeros(1, 1, 2)]),
        (
            helper.make_node("ConvTranspose", ["a", "b"], ["y"], strides=[10**10]),
            [torch.zeros(1, 1, 3), torch.zeros(1, 1, 2)],
        ),
        (helper.make_node("MaxPool", ["a"], ["y"], kernel_shape=[1], pads=[10**10, 0]), [torch.zeros(1, 1, 3)]),
        (helper.make_node("Add", ["a", "b"], ["y"]), [LARGE, LARGE[:, None]]),
        (helper.make_node("MatMul", ["a", "b"], ["y"]), [LARGE[:, None], LARGE[None]]),
        (helper.make_node("Einsum", ["a", "b"], ["y"], equation="i,j->ij"), [LARGE, LARGE]),
        (helper.make_node("Gather", ["a", "b"], ["y"]), [LARGE[None], torch.zeros(100_000, dtype=torch.int64)]),
        (helper.make_node("Concat", ["a"] * 5000, ["y"], axis=0), [torch.zeros(10**6)]),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)
def test_results_of_many_gigabytes_are_refused_before_they_are_computed(node: Any, inputs: list[torch.Tensor]) -> None:
    """A node that declares 4 to 400 GB is refused by the size of its output, which is never allocated."""
    names = dict.fromkeys(name for name in node.input if name)
    with refusal(UnsupportedModel, "declared_size"):
        run_node(node, dict(zip(names, inputs, strict=True)), 17)


#: Attributes with which an operator is left to ONNX Runtime: `docs/decisions/0019` counts who needs them.
LEFT = {
    "Attention": words(
        "left_window_size qk_matmul_output_mode right_window_size softcap softmax_precision"  # and a past
    ),
    "Resize": words("antialias exclude_outside extrapolation_value keep_aspect_ratio_policy"),
}


@pytest.mark.parametrize("name", sorted(name for name in OPERATORS if defs.has(name)))
def test_every_attribute_of_the_specification_is_known(name: str) -> None:
    """A claimed operator takes every attribute that any version since operator set 7 has, but for a few on a list."""
    versions = [s for s in defs.get_all_schemas_with_history() if s.name == name and s.domain == ""]
    first = max((s.since_version for s in versions if s.since_version <= 7), default=0)
    given = {attribute for s in versions if s.since_version >= first for attribute in s.attributes}
    assert given - OPERATORS[name].keywords.keys() == LEFT.get(name, frozenset())


def test_a_cast_passes_gradients_between_floats_only() -> None:
    """The table's answer for Cast depends on the node; unknown operators have no gradient at all."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=kind) for kind in (TensorProto.DOUBLE, TensorProto.INT64)]
    nodes += [helper.make_node(name, ["x", "w"][: 1 + (name == "Gemm")], ["y"]) for name in ("Gemm", "ArgMax", "Loop")]
    assert [node_has_gradient(node) for node in nodes] == [True, False, True, False, False]
