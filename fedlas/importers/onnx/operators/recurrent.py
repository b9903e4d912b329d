"""ONNX's LSTM, GRU and RNN: the equations of their cells, which `cells` runs through time."""

from __future__ import annotations

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.recurrent_loop import (
    GRU,
    LSTM,
    RELU,
    TANH,
    Activation,
    RecurrentAttributes,
    RecurrentLayer,
    States,
    Step,
)
from fedlas.importers.onnx.operators.table import operator


@operator("LSTM", host=(4,))
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    input_forget: int = 0,
    **attributes: Unpack[RecurrentAttributes],
) -> tuple[Tensor, ...]:
    """Gates in the order input, output, forget, cell; peepholes in the order input, output, forget."""
    layer = RecurrentLayer.of(x, w, r, b, sequence_lens, (initial_h, initial_c), attributes)

    def make_step(d: int, rb: Tensor | None, functions: list[Activation]) -> Step:
        gate, squash, show = functions
        eye_i, eye_o, eye_f = (0.0, 0.0, 0.0) if peepholes is None else peepholes[d].chunk(3)

        def step(at: Tensor, states: States) -> States:
            hidden, cell = states
            i, o, f, c = (at + F.linear(hidden, layer.r[d], rb)).chunk(4, -1)
            enter = gate(layer.cut(i + eye_i * cell))
            keep = 1 - enter if input_forget else gate(layer.cut(f + eye_f * cell))
            cell = keep * cell + enter * squash(layer.cut(c))
            return gate(layer.cut(o + eye_o * cell)) * show(cell), cell

        return step

    plain = peepholes is None and not input_forget
    return layer.run((LSTM,), make_step, fusible=plain)


@operator("GRU", host=(4,))
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    linear_before_reset: int = 0,
    **attributes: Unpack[RecurrentAttributes],
) -> tuple[Tensor, ...]:
    """Gates in the order update, reset, hidden; PyTorch's cell applies the reset after the product."""
    layer = RecurrentLayer.of(x, w, r, b, sequence_lens, (initial_h,), attributes)

    def make_step(d: int, rb: Tensor | None, functions: list[Activation]) -> Step:
        (gate, squash), split = functions, [2 * layer.r.shape[-1]]
        gates_r, hidden_r = layer.r[d].tensor_split(split)
        gates_b, hidden_b = (None, None) if rb is None else rb.tensor_split(split)

        def step(at: Tensor, states: States) -> States:
            (hidden,) = states
            gates, new = at.tensor_split(split, -1)
            update, reset = gate(layer.cut(gates + F.linear(hidden, gates_r, gates_b))).chunk(2, -1)
            if linear_before_reset:
                new = new + reset * F.linear(hidden, hidden_r, hidden_b)
            else:
                new = new + F.linear(reset * hidden, hidden_r, hidden_b)
            return ((1 - update) * squash(layer.cut(new)) + update * hidden,)

        return step

    return layer.run((GRU,), make_step, fusible=bool(linear_before_reset))


@operator("RNN", host=(4,))
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    **attributes: Unpack[RecurrentAttributes],
) -> tuple[Tensor, ...]:
    layer = RecurrentLayer.of(x, w, r, b, sequence_lens, (initial_h,), attributes)

    def make_step(d: int, rb: Tensor | None, functions: list[Activation]) -> Step:
        return lambda at, states: (functions[0](layer.cut(at + F.linear(states[0], layer.r[d], rb))),)

    return layer.run((TANH, RELU), make_step)
