"""ONNX's LSTM, GRU and RNN: their cells, run through time by PyTorch's fused functions or by a loop.

Gates are put into PyTorch's order by differentiable slices, so that what is trained are the graph's constants.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fedlas.importers.onnx.operators.elementwise import named_activation
from fedlas.importers.onnx.operators.shapes import reverse_sequence
from fedlas.importers.onnx.operators.table import operator

States = tuple[Tensor, ...]
Activation = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, States], States]
#: The step of one direction, from its number, its bias of the recurrence and its activations.
MakeStep = Callable[[int, Tensor | None, list[Activation]], Step]
# Functions of torch._VF are what nn.LSTM and its kin call; they have no public name that takes weights.
_VF: Any = torch._VF


class RecurrentAttributes(TypedDict, total=False):
    activation_alpha: tuple[float, ...]
    activation_beta: tuple[float, ...]
    activations: tuple[str, ...]
    clip: float
    direction: str
    hidden_size: int
    layout: int


@dataclass(frozen=True)
class CellKind:
    """One kind of recurrent cell: PyTorch's function, its gates' places among ONNX's, and the activations in it."""

    fused: Callable[..., tuple[Tensor, ...]]
    order: tuple[int, ...]
    defaults: tuple[str, ...]


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
    attributes: RecurrentAttributes

    @classmethod
    def of(
        cls,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None,
        lengths: Tensor | None,
        initial: Sequence[Tensor | None],
        attributes: RecurrentAttributes,
    ) -> RecurrentLayer:
        """A node's inputs in one form; states that are not given are zeros."""
        if attributes.get("layout"):
            x = x.transpose(0, 1)
            initial = [state if state is None else state.transpose(0, 1) for state in initial]
        zeros = x.new_zeros(w.shape[0], x.shape[1], r.shape[-1])
        # Lengths change no shape, and where all are the whole length they change nothing.
        if lengths is not None and (x.is_meta or bool((lengths == x.shape[0]).all())):
            lengths = None
        states = tuple(zeros if state is None else state for state in initial)
        layer = cls(x, w, r, b, lengths, states, attributes)
        layer._check_sizes()
        return layer

    def _check_sizes(self) -> None:
        """PyTorch's functions write beyond their memory where these do not fit together; raises ValueError."""
        count, gates, hidden = len(self.backwards), self.w.shape[1], self.r.shape[-1]
        wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            "W": (self.w, (count, gates, self.x.shape[2])),
            "R": (self.r, (count, gates, hidden)),
        }
        wanted |= {} if self.b is None else {"B": (self.b, (count, 2 * gates))}
        wanted |= {f"state {i}": (state, (count, self.x.shape[1], hidden)) for i, state in enumerate(self.states)}
        for name, (value, shape) in wanted.items():
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} has the shape {tuple(value.shape)}, {shape} is needed")

    @property
    def direction(self) -> str:
        return self.attributes.get("direction", "forward")

    @property
    def backwards(self) -> list[bool]:
        return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[self.direction]

    def cut(self, x: Tensor) -> Tensor:
        clip = self.attributes.get("clip")
        return x if clip is None else torch.clamp(x, -clip, clip)

    def run(self, kinds: Sequence[CellKind], make_step: MakeStep, *, fusible: bool = True) -> tuple[Tensor, ...]:
        """Outputs (T, directions, N, H) and last states (directions, N, H), or both with the rows first."""
        given = self.attributes.get("activations") or kinds[0].defaults * len(self.backwards)
        names = tuple(name.lower() for name in given)
        same = next((kind for kind in kinds if names == kind.defaults * len(self.backwards)), None)
        empty_rows = self.lengths is not None and bool((self.lengths < 1).any())
        # PyTorch's functions do not clip, and take no row without a step.
        if fusible and same is not None and "clip" not in self.attributes and not empty_rows:
            output, last = fused(self, same)
        else:
            output, last = self._stepwise(make_step, self._activations(given))
        if self.attributes.get("layout"):
            return output.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
        return output, *last

    def _activations(self, names: Sequence[str]) -> list[Activation]:
        """Functions of one argument; alphas and betas are used up by those that take them, in order."""
        given = iter(self.attributes.get("activation_alpha", ())), iter(self.attributes.get("activation_beta", ()))
        made = []
        for name in names:
            function, defaults = named_activation(name)
            parameters = [next(source, default) for source, default in zip(given, defaults, strict=False)]
            made.append(_with(function, parameters))
        return made

    def _stepwise(self, make_step: MakeStep, activations: list[Activation]) -> tuple[Tensor, States]:
        """Every direction by a loop over time; a row that has ended keeps its state and yields zeros."""
        outputs, last = [], []
        lengths = None if self.lengths is None else self.lengths.to(self.x.device)
        each = len(activations) // len(self.backwards)
        for d, backwards in enumerate(self.backwards):
            wb, rb = (None, None) if self.b is None else self.b[d].chunk(2)
            step = make_step(d, rb, activations[each * d : each * (d + 1)])
            projected = F.linear(self.x, self.w[d], wb)
            state, steps = tuple(value[d] for value in self.states), []
            times = range(len(projected))
            for t in reversed(times) if backwards else times:
                new = step(projected[t], state)
                shown = new[0]
                if lengths is not None:
                    running = (t < lengths)[:, None]
                    new = tuple(torch.where(running, a, b) for a, b in zip(new, state, strict=True))
                    shown = torch.where(running, shown, 0.0)
                state = new
                steps.append(shown)
            outputs.append(torch.stack(steps[::-1] if backwards else steps))
            last.append(state)
        return torch.stack(outputs, 1), tuple(torch.stack(values) for values in zip(*last, strict=True))


def _with(function: Callable[..., Tensor], parameters: list[float]) -> Activation:
    return lambda x: function(x, *parameters)


def fused(layer: RecurrentLayer, kind: CellKind) -> tuple[Tensor, States]:
    """The layer by PyTorch's function: outputs (T, directions, N, H) and the last states."""
    weights: list[Tensor] = []
    if layer.w.shape[1] != len(kind.order) * layer.r.shape[-1]:
        raise ValueError(f"W has {layer.w.shape[1]} rows, {len(kind.order)} times {layer.r.shape[-1]} are needed")
    for d in range(len(layer.backwards)):
        parts = [layer.w[d], layer.r[d]]
        if layer.b is not None:
            parts += layer.b[d].chunk(2)
        gates = [part.chunk(len(kind.order)) for part in parts]
        weights += [torch.cat([part[i] for i in kind.order]) for part in gates]
    options = weights, layer.b is not None, 1, 0.0, torch.is_grad_enabled(), layer.direction == "bidirectional"
    with _quietly(layer.x.is_cuda):
        output, last = (_whole if layer.lengths is None else _packed)(layer, kind, options)
    return output.unflatten(-1, (len(layer.backwards), -1)).transpose(1, 2), last


@contextlib.contextmanager
def _quietly(on_cuda: bool) -> Iterator[None]:
    """Without cuDNN's warning that the weights do not lie in one piece, as a module's own would."""
    if not on_cuda:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        yield


def _whole(layer: RecurrentLayer, kind: CellKind, options: tuple[object, ...]) -> tuple[Tensor, States]:
    turn = layer.direction == "reverse"
    x = layer.x.flip(0) if turn else layer.x
    output, *last = kind.fused(x, _as_pytorch(layer.states), *options, False)
    return output.flip(0) if turn else output, tuple(last)


def _packed(layer: RecurrentLayer, kind: CellKind, options: tuple[object, ...]) -> tuple[Tensor, States]:
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
    packed_output = PackedSequence(data, packed.batch_sizes, order, back)
    output, _ = pad_packed_sequence(packed_output, total_length=x.shape[0])
    output = reverse_sequence(output, layer.lengths) if turn else output
    return output, tuple(state.index_select(1, back) for state in last)


def _as_pytorch(states: Sequence[Tensor]) -> Tensor | list[Tensor]:
    given = [state.contiguous() for state in states]
    return given if len(given) > 1 else given[0]


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

    return layer.run((LSTM,), make_step, fusible=peepholes is None and not input_forget)


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
