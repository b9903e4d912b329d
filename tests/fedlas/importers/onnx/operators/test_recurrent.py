"""LSTM, GRU and RNN compute what ONNX Runtime computes, and the weights of the graph are what trains."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import run_node
from tests.helpers.refusals import refusal
from tests.helpers.single_node import Case, assert_agrees, assert_differentiable, random_floats

floats = random_floats(2)
TIME, ROWS, WIDTH, HIDDEN = 6, 3, 4, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {"LSTM": ["HardSigmoid", "Tanh", "Softsign"], "GRU": ["HardSigmoid", "LeakyRelu"], "RNN": ["Relu"]}
SOME = np.array([6, 2, 4], np.int32)
EVERY = np.full(3, 6, np.int32)


def layer(
    op: str,
    direction: str = "forward",
    *,
    bias: bool = True,
    lengths: Any = None,
    initial: bool = False,
    peepholes: bool = False,
    opset: int = 14,
    layout: int = 0,
    **attributes: Any,
) -> Case:
    count, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    order = (1, 0, 2) if layout else (0, 1, 2)
    states = [np.transpose(floats(count, ROWS, HIDDEN), order) if initial else None for _ in range(1 + (op == "LSTM"))]
    inputs = [
        np.transpose(floats(TIME, ROWS, WIDTH), order),
        floats(count, gates * HIDDEN, WIDTH),
        floats(count, gates * HIDDEN, HIDDEN),
        floats(count, 2 * gates * HIDDEN) if bias else None,
        lengths,
        *states,
        floats(count, 3 * HIDDEN) if peepholes else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    given = {"hidden_size": HIDDEN, "direction": direction, **attributes} | ({"layout": 1} if layout else {})
    return Case(op, tuple(inputs), given, opset, outputs=3 if op == "LSTM" else 2)


DIRECTIONS = ("forward", "reverse", "bidirectional")
CASES = [
    *(layer(op, d, opset=v) for op, d, v in itertools.product(GATES, DIRECTIONS, (7, 14, 22))),
    *(layer(op, d, initial=True) for op, d in itertools.product(GATES, DIRECTIONS)),
    *(layer(op, d, lengths=n, initial=True) for op, d, n in itertools.product(GATES, DIRECTIONS, (SOME, EVERY))),
    *(layer(op, "bidirectional", lengths=np.array([3, 0, 6], np.int32)) for op in GATES),
    *(layer(op, bias=False) for op in GATES),
    *(
        layer(op, d, activations=a * (2 if d == "bidirectional" else 1))
        for (op, a), d in itertools.product(ACTIVATIONS.items(), ("forward", "bidirectional"))
    ),
    layer(
        "LSTM",
        activations=["HardSigmoid", "LeakyRelu", "ScaledTanh"],
        activation_alpha=[0.3, 0.05, 1.2],
        activation_beta=[0.4, 0.7],
    ),
    layer("RNN", "bidirectional", activations=["Relu", "Relu"]),
    layer("RNN", "bidirectional", activations=["Relu", "Tanh"]),
    *(layer("GRU", d, linear_before_reset=1, initial=i) for d in DIRECTIONS for i in (False, True)),
    *(layer("GRU", d, linear_before_reset=1, lengths=SOME, initial=True) for d in DIRECTIONS),
    layer("GRU", linear_before_reset=1, bias=False),
    layer("LSTM", "bidirectional", peepholes=True, initial=True),
    layer("LSTM", input_forget=1),
    *(layer(op, clip=0.5) for op in GATES),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case}-{sorted(case.attributes)}")
def test_agrees_with_onnx_runtime(case: Case) -> None:
    """All outputs, in all directions and with all options, are ONNX Runtime's."""
    assert_agrees(case, atol=1e-4)


@pytest.mark.parametrize("op", GATES)
def test_rows_first(op: str) -> None:
    """With `layout` 1, which ONNX Runtime does not have, inputs and outputs are those of layout 0 with swapped axes."""
    case = layer(op, "bidirectional", layout=1, initial=True)
    swapped = [np.swapaxes(v, 0, 1) if k in (0, 5, 6) and v is not None else v for k, v in enumerate(case.inputs)]
    plain = Case(op, tuple(swapped), case.attributes | {"layout": 0}, outputs=case.outputs)
    ours, expected = ([v.numpy() for v in outputs(c).values()] for c in (case, plain))
    np.testing.assert_allclose(ours[0], np.transpose(expected[0], (2, 0, 1, 3)), atol=1e-6)
    for state, reference in zip(ours[1:], expected[1:], strict=True):
        np.testing.assert_allclose(state, np.swapaxes(reference, 0, 1), atol=1e-6)


def outputs(case: Case) -> dict[str, torch.Tensor]:
    return run_node(case.node, {n: torch.from_numpy(np.array(v)) for n, v in case.given.items()}, case.opset)


@pytest.mark.parametrize(
    "case",
    [
        *(layer(op, "bidirectional", initial=True) for op in GATES),
        layer("GRU", linear_before_reset=1),
        layer("LSTM", lengths=SOME, peepholes=True),
        layer("LSTM", "reverse", lengths=SOME),
    ],
    ids=str,
)
def test_gradients(case: Case) -> None:
    """Gradients by inputs, weights and states equal finite differences, fused or step by step."""
    assert_differentiable(case)


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("wrong", ["w", "r", "b", "state"])
def test_sizes_that_do_not_fit_never_reach_the_kernels(operator: str, wrong: str) -> None:
    """PyTorch's recurrent functions write beyond their memory on states of another batch; such files are refused."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    shapes = {"w": [1, gates * HIDDEN, WIDTH], "r": [1, gates * HIDDEN, HIDDEN], "b": [1, 2 * gates * HIDDEN]}
    shapes["state"] = [1, ROWS, HIDDEN]
    shapes[wrong] = {
        "w": [1, gates * HIDDEN, WIDTH + 1],
        "r": [1, gates * HIDDEN, HIDDEN + 1],
        "b": [1, 2 * gates * HIDDEN - 1],
        "state": [1, 1, HIDDEN],
    }[wrong]
    values = {name: torch.ones(shape) for name, shape in shapes.items()} | {"x": torch.ones(TIME, ROWS, WIDTH)}
    node = helper.make_node(operator, ["x", "w", "r", "b", "", "state"], ["y"], hidden_size=HIDDEN)
    with refusal(UnsupportedModel, "invalid_graph"):
        run_node(node, values, 14)
