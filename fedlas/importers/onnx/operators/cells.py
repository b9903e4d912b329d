"""The run of a recurrent layer through time: by PyTorch's fused functions or by a loop.

Gates are put into PyTorch's order by differentiable slices, so that what is trained are the graph's constants.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.indexing import reverse_sequence

States = tuple[Tensor, ...]
Activation = Callable[[Tensor], Tensor]

# For each activation: how it is computed with alpha and beta, and their defaults where it takes them.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "elu": (lambda x, a: F.elu(x, a), (1.0,)),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), (0.2, 0.5)),
    "leakyrelu": (lambda x, a: F.leaky_relu(x, a), (0.01,)),
    "relu": (F.relu, ()),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), (1.0, 1.0)),
    "sigmoid": (torch.sigmoid, ()),
    "softplus": (F.softplus, ()),
    "softsign": (F.softsign, ()),
    "tanh": (torch.tanh, ()),
    "thresholdedrelu": (lambda x, a: torch.where(x > a, x, 0.0), (1.0,)),
}


def activations_of(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """Functions of one argument; alphas and betas are used up by those that take them, in order."""
    first, second, made = iter(alphas), iter(betas), []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise UnsupportedModel("unsupported_operator", f"recurrent layers with activation {name!r}")
        function, defaults = _ACTIVATIONS[name.lower()]
        given = [next(source, default) for source, default in zip((first, second), defaults, strict=False)]
        made.append(_with(function, given))
    return made


def _with(function: Callable[..., Tensor], parameters: list[float]) -> Activation:
    return lambda x: function(x, *parameters)


@dataclass(frozen=True)
class CellKind:
    """How ONNX and PyTorch write one kind of cell.

    Attributes:
        fused: PyTorch's function.
        order: where PyTorch's gates lie among ONNX's.
        defaults: the activations that the fused function computes.
    """

    fused: Callable[..., Any]
    order: tuple[int, ...]
    defaults: tuple[str, ...]


# Functions of torch._VF are what nn.LSTM and its kin call; they have no public name that takes weights.
_VF: Any = torch._VF
LSTM = CellKind(_VF.lstm, (0, 2, 3, 1), ("sigmoid", "tanh", "tanh"))
GRU = CellKind(_VF.gru, (1, 0, 2), ("sigmoid", "tanh"))
TANH = CellKind(_VF.rnn_tanh, (0,), ("tanh",))
RELU = CellKind(_VF.rnn_relu, (0,), ("relu",))


@dataclass(frozen=True)
class RecurrentLayer:
    """One recurrent layer with its inputs, time first: x (T, N, I), states (directions, N, H)."""

    x: Tensor
    w: Tensor
    r: Tensor
    b: Tensor | None
    lengths: Tensor | None
    states: States
    direction: str

    def directions(self) -> list[bool]:
        """Whether each direction runs backwards."""
        return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[self.direction]


def prepare(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
    direction: str,
    layout: int,
) -> RecurrentLayer:
    """A node's inputs in one form; states that are not given are zeros."""
    if layout:
        x = x.transpose(0, 1)
        initial = [state if state is None else state.transpose(0, 1) for state in initial]
    zeros = x.new_zeros(w.shape[0], x.shape[1], r.shape[-1])
    # Lengths change no shape, and where all are the whole length they change nothing.
    if lengths is not None and (x.is_meta or bool((lengths == x.shape[0]).all())):
        lengths = None
    states = tuple(zeros if state is None else state for state in initial)
    _check_sizes(x, w, r, b, states, direction)
    return RecurrentLayer(x, w, r, b, lengths, states, direction)


def _check_sizes(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, states: States, direction: str) -> None:
    """PyTorch's functions write beyond their memory where these do not fit together.

    Raises:
        ValueError: they do not.
    """
    count, hidden = 2 if direction == "bidirectional" else 1, r.shape[-1]
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "W": (w, (count, w.shape[1], x.shape[2])),
        "R": (r, (count, w.shape[1], hidden)),
    }
    wanted |= {} if b is None else {"B": (b, (count, 2 * w.shape[1]))}
    wanted |= {f"state {i}": (state, (count, x.shape[1], hidden)) for i, state in enumerate(states)}
    for name, (value, shape) in wanted.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, {shape} is needed")


def fused(layer: RecurrentLayer, kind: CellKind) -> tuple[Tensor, States]:
    """The layer by PyTorch's function: outputs (T, directions, N, H) and the last states."""
    weights: list[Tensor] = []
    if layer.w.shape[1] != len(kind.order) * layer.r.shape[-1]:
        raise ValueError(f"W has {layer.w.shape[1]} rows, {len(kind.order)} times {layer.r.shape[-1]} are needed")
    for d in range(len(layer.directions())):
        parts = [layer.w[d], layer.r[d]]
        if layer.b is not None:
            parts += layer.b[d].chunk(2)
        weights += [_reordered(part, kind.order) for part in parts]
    options = weights, layer.b is not None, 1, 0.0, torch.is_grad_enabled(), layer.direction == "bidirectional"
    with _quietly(layer.x.is_cuda):
        output, last = (_whole if layer.lengths is None else _packed)(layer, kind, options)
    output = output.unflatten(-1, (len(layer.directions()), -1)).transpose(1, 2)
    return output, last


@contextlib.contextmanager
def _quietly(on_cuda: bool) -> Iterator[None]:
    """Without cuDNN's warning that the weights do not lie in one piece, as a module's own would."""
    if not on_cuda:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        yield


def _whole(layer: RecurrentLayer, kind: CellKind, options: tuple[Any, ...]) -> tuple[Tensor, States]:
    """All rows run to the end."""
    turn = layer.direction == "reverse"
    x = layer.x.flip(0) if turn else layer.x
    output, *last = kind.fused(x, _as_pytorch(layer.states), *options, False)
    return output.flip(0) if turn else output, tuple(last)


def _packed(layer: RecurrentLayer, kind: CellKind, options: tuple[Any, ...]) -> tuple[Tensor, States]:
    """Rows of several lengths, of which only the steps that they have are computed."""
    assert layer.lengths is not None
    turn = layer.direction == "reverse"
    x = reverse_sequence(layer.x, layer.lengths) if turn else layer.x
    packed = pack_padded_sequence(x, layer.lengths.cpu(), enforce_sorted=False)
    assert packed.sorted_indices is not None
    assert packed.unsorted_indices is not None
    order, back = packed.sorted_indices, packed.unsorted_indices
    states = [state.index_select(1, order) for state in layer.states]
    data, *last = kind.fused(packed.data, packed.batch_sizes, _as_pytorch(states), *options)
    found = PackedSequence(data, packed.batch_sizes, order, back)
    output, _ = pad_packed_sequence(found, total_length=x.shape[0])
    output = reverse_sequence(output, layer.lengths) if turn else output
    return output, tuple(state.index_select(1, back) for state in last)


def _as_pytorch(states: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """One state alone, or the list of them."""
    given = [state.contiguous() for state in states]
    return given if len(given) > 1 else given[0]


def _reordered(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = weight.chunk(len(order))
    return torch.cat([gates[i] for i in order])


Step = Callable[[Tensor, States], States]


def stepwise(layer: RecurrentLayer, make_step: Callable[[int], tuple[Tensor, Step]]) -> tuple[Tensor, States]:
    """Every direction by a loop over time; a row that has ended keeps its state and yields zeros."""
    outputs, last = [], []
    lengths = None if layer.lengths is None else layer.lengths.to(layer.x.device)
    for d, backwards in enumerate(layer.directions()):
        projected, step = make_step(d)
        state, found = tuple(value[d] for value in layer.states), []
        times = range(len(projected))
        for t in reversed(times) if backwards else times:
            new = step(projected[t], state)
            shown = new[0]
            if lengths is not None:
                running = (t < lengths)[:, None]
                new = tuple(torch.where(running, a, b) for a, b in zip(new, state, strict=True))
                shown = torch.where(running, shown, 0.0)
            state = new
            found.append(shown)
        outputs.append(torch.stack(found[::-1] if backwards else found))
        last.append(state)
    return torch.stack(outputs, 1), tuple(torch.stack(values) for values in zip(*last, strict=True))


def answer(output: Tensor, last: States, layout: int) -> tuple[Tensor, ...]:
    """(T, directions, N, H) and (directions, N, H), or both with the rows first."""
    if layout:
        return output.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
    return output, *last


def is_default(activations: Sequence[str], kind: CellKind, layer: RecurrentLayer, clip: float | None) -> bool:
    """Whether PyTorch's function computes the same: its own activations, no clipping, no row without a step."""
    names = tuple(name.lower() for name in activations)
    empty_rows = layer.lengths is not None and bool((layer.lengths < 1).any())
    return clip is None and not empty_rows and names in ((), kind.defaults * len(layer.directions()))


def cut(x: Tensor, clip: float | None) -> Tensor:
    """`x` within `clip` of zero."""
    return x if clip is None else torch.clamp(x, -clip, clip)
