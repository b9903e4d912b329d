"""ONNX's LSTM, GRU and RNN: the equations of their cells, which `cells` runs through time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.cells import (
    GRU,
    LSTM,
    RELU,
    TANH,
    States,
    Step,
    activations_of,
    answer,
    cut,
    fused,
    is_default,
    prepare,
    stepwise,
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
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    activations: tuple[str, ...] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Gates in the order input, output, forget, cell; peepholes in the order input, output, forget."""
    layer = prepare(x, w, r, b, sequence_lens, (initial_h, initial_c), direction, layout)
    if peepholes is None and not input_forget and is_default(activations, LSTM, layer, clip):
        return answer(*fused(layer, LSTM), layout)
    names = activations or LSTM.defaults * len(layer.directions())
    functions = activations_of(names, activation_alpha, activation_beta)

    def make_step(d: int) -> tuple[Tensor, Step]:
        gate, squash, show = functions[3 * d : 3 * d + 3]
        wb, rb = (None, None) if layer.b is None else layer.b[d].chunk(2)
        eye_i, eye_o, eye_f = (0.0, 0.0, 0.0) if peepholes is None else peepholes[d].chunk(3)

        def step(at: Tensor, states: States) -> States:
            hidden, cell = states
            i, o, f, c = (at + F.linear(hidden, layer.r[d], rb)).chunk(4, -1)
            enter = gate(cut(i + eye_i * cell, clip))
            keep = 1 - enter if input_forget else gate(cut(f + eye_f * cell, clip))
            cell = keep * cell + enter * squash(cut(c, clip))
            return gate(cut(o + eye_o * cell, clip)) * show(cell), cell

        return F.linear(layer.x, layer.w[d], wb), step

    return answer(*stepwise(layer, make_step), layout)


@operator("GRU", host=(4,))
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    activations: tuple[str, ...] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gates in the order update, reset, hidden; PyTorch's cell applies the reset after the product."""
    layer = prepare(x, w, r, b, sequence_lens, (initial_h,), direction, layout)
    if linear_before_reset and is_default(activations, GRU, layer, clip):
        return answer(*fused(layer, GRU), layout)
    names = activations or GRU.defaults * len(layer.directions())
    functions = activations_of(names, activation_alpha, activation_beta)

    def make_step(d: int) -> tuple[Tensor, Step]:
        gate, squash = functions[2 * d : 2 * d + 2]
        wb, rb = (None, layer.x.new_zeros(layer.w.shape[1])) if layer.b is None else layer.b[d].chunk(2)
        gates_r, hidden_r = layer.r[d].tensor_split([2 * layer.r.shape[-1]])
        gates_b, hidden_b = rb.tensor_split([2 * layer.r.shape[-1]])

        def step(at: Tensor, states: States) -> States:
            (hidden,) = states
            gates, new = at.tensor_split([gates_r.shape[0]], -1)
            update, reset = gate(cut(gates + F.linear(hidden, gates_r, gates_b), clip)).chunk(2, -1)
            if linear_before_reset:
                new = new + reset * F.linear(hidden, hidden_r, hidden_b)
            else:
                new = new + F.linear(reset * hidden, hidden_r, hidden_b)
            return ((1 - update) * squash(cut(new, clip)) + update * hidden,)

        return F.linear(layer.x, layer.w[d], wb), step

    return answer(*stepwise(layer, make_step), layout)


@operator("RNN", host=(4,))
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    activations: tuple[str, ...] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    layer = prepare(x, w, r, b, sequence_lens, (initial_h,), direction, layout)
    names = activations or TANH.defaults * len(layer.directions())
    for kind in (TANH, RELU):
        if is_default(names, kind, layer, clip):
            return answer(*fused(layer, kind), layout)
    functions = activations_of(names, activation_alpha, activation_beta)

    def make_step(d: int) -> tuple[Tensor, Step]:
        wb, rb = (None, None) if layer.b is None else layer.b[d].chunk(2)

        def step(at: Tensor, states: States) -> States:
            return (functions[d](cut(at + F.linear(states[0], layer.r[d], rb), clip)),)

        return F.linear(layer.x, layer.w[d], wb), step

    return answer(*stepwise(layer, make_step), layout)
