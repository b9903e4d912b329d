"""Stacked graphs: all that some calibrators compute, in few ONNX nodes.

A small network answers in the time of twenty nodes, and written one after the other the members of a pool are a hundred
(5 to 8 times the upload's time). So a calibrator is written as affine maps between a few kinds of activation. Affine
maps are composed here, in float64. Activations of one kind that are as deep, of all calibrators together, become one
node behind one matrix product, and what two calibrators both need is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]
OnnxPart: TypeAlias = "tuple[list[onnx.NodeProto], list[onnx.TensorProto]]"
PREFIX = "fedlas_calibrator_"
#: Side by side K classes cost K² products for each temperature: nothing for 100, 4 MB of weights for 1,000.
MAX_STACKED_CLASSES = 100
#: Added to probabilities before their logarithm, so that it stays finite in float32.
TINY = 1e-37


@dataclass(eq=False, frozen=True)
class Block:
    """Columns (N, width) that a node computes, or that are given by name.

    Attributes:
        kind: of the activation, an ONNX operator; HardSigmoid cuts to 0..1, `Square` is a product, `Identity` no
            activation at all, and `Curve` a piecewise linear map of each number.
        depth: activations that lie before it, 0 for what is given.
        sums_to_one: whether `exp` of these columns are probabilities.
    """

    kind: str
    width: int
    depth: int = 0
    source: Columns | None = None
    name: str = ""
    sums_to_one: bool = False
    hinges: tuple[Floats, Floats, Floats] | None = None


@dataclass(eq=False, frozen=True)
class Columns:
    """Affine functions of blocks: Σ block·matrix + offset (width,); a matrix (width,) is a diagonal."""

    terms: Mapping[Block, Floats]
    offset: Floats

    @property
    def width(self) -> int:
        return len(self.offset)

    @property
    def is_constant(self) -> bool:
        return not any(matrix.any() for matrix in self.terms.values())

    @property
    def log_block(self) -> Block | None:
        """The block that these columns are, if its exponentials are probabilities."""
        block = next(iter(self.terms), None)
        alone = len(self.terms) == 1 and block is not None and block.sums_to_one and not self.offset.any()
        return block if alone and is_identity(next(iter(self.terms.values()))) else None

    def __mul__(self, factors: ArrayLike) -> Columns:
        scale = np.broadcast_to(np.asarray(factors, np.float64), (self.width,))
        return Columns({block: matrix * scale for block, matrix in self.terms.items()}, self.offset * scale)

    def __matmul__(self, matrix: ArrayLike) -> Columns:
        right = np.asarray(matrix, np.float64)
        terms = {b: m[:, None] * right if m.ndim == 1 else m @ right for b, m in self.terms.items()}
        return Columns(terms, self.offset @ right)

    def __add__(self, other: Columns | ArrayLike) -> Columns:
        if not isinstance(other, Columns):
            return Columns(self.terms, self.offset + np.asarray(other, np.float64))
        terms = dict(self.terms)
        for block, matrix in other.terms.items():
            mine = terms.get(block, np.zeros(1))
            if block in terms and mine.ndim != matrix.ndim:
                mine, matrix = dense(mine), dense(matrix)
            terms[block] = mine + matrix
        # A constant reads nothing beside columns that do.
        return Columns({b: m for b, m in terms.items() if m.any()} or terms, self.offset + other.offset)

    def __sub__(self, other: Columns | ArrayLike) -> Columns:
        return self + (other * -1.0 if isinstance(other, Columns) else -np.asarray(other, np.float64))


def total(columns: Iterable[Columns]) -> Columns:
    """The sum of columns of the same width."""
    return reduce(Columns.__add__, columns)


def dense(matrix: Floats) -> Floats:
    return np.diag(matrix) if matrix.ndim == 1 else matrix


def is_identity(matrix: Floats) -> bool:
    return np.array_equal(matrix, np.ones_like(matrix) if matrix.ndim == 1 else np.eye(*matrix.shape))


class Stack:
    """Builds columns of what is given by name, and writes the nodes that some of them need."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[object, ...], Block] = {}

    def given(self, name: str, width: int) -> Columns:
        """The columns of a tensor (N, width) that other nodes compute."""
        block = self._blocks.setdefault((name, width), Block("given", width, name=name))
        return Columns({block: np.ones(width)}, np.zeros(width))

    def apply(
        self,
        kind: str,
        columns: Columns,
        *,
        sums_to_one: bool = False,
        hinges: tuple[Floats, Floats, Floats] | None = None,
    ) -> Columns:
        """An activation of columns, computed once however often it is asked for."""
        terms = [(id(block), matrix.shape, matrix.tobytes()) for block, matrix in columns.terms.items()]
        shape = () if hinges is None else [part.tobytes() for part in hinges]
        key = (kind, columns.offset.tobytes(), *terms, *shape)
        depth = 1 + max((block.depth for block in columns.terms), default=0)
        block = self._blocks.setdefault(
            key, Block(kind, columns.width, depth, columns, sums_to_one=sums_to_one, hinges=hinges)
        )
        return Columns({block: np.ones(block.width)}, np.zeros(block.width))

    def softmax(self, logits: Columns) -> Columns:
        """Probabilities of logits; of logarithms of probabilities those."""
        block = logits.log_block
        if block is not None and block.kind == "Log" and block.source is not None:
            return block.source
        if logits.is_constant:
            weights = np.exp(logits.offset - logits.offset.max())
            return logits * 0.0 + np.asarray(weights / weights.sum())
        return self.apply("Softmax", logits)

    def log_softmax(self, logits: Columns) -> Columns:
        """Logarithms of `softmax`, which do not underflow."""
        if logits.log_block is not None:
            return logits
        if logits.is_constant:
            return logits * 0.0 + np.log(self.softmax(logits).offset)
        return self.apply("LogSoftmax", logits, sums_to_one=True)

    def log(self, probs: Columns) -> Columns:
        """Logarithms of columns that are probabilities."""
        return self.apply("Log", probs, sums_to_one=True)

    def end(self, columns: Columns, output_name: str) -> OnnxPart:
        """Nodes and initialisers that compute the columns in float32 as `output_name`; operators of opset 7."""
        return _Writer(columns, output_name).part


def _needed(columns: Columns, blocks: dict[Block, None]) -> dict[Block, None]:
    """Blocks that columns need, in the order of their computation."""
    for block in columns.terms:
        if block not in blocks:
            if block.source is not None:
                _needed(block.source, blocks)
            blocks[block] = None
    return blocks


@dataclass
class _Tensor:
    """A written tensor, and where the columns of its blocks begin in it."""

    name: str
    width: int
    starts: dict[Block, int] = field(default_factory=dict)


class _Writer:
    """Writes blocks group by group: a group is of one kind and depth."""

    def __init__(self, columns: Columns, output_name: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._tensors: list[_Tensor] = []
        blocks = list(_needed(columns, {}))
        widest = max((block.width for block in blocks if block.kind == "Softmax"), default=0)
        together = max(widest, columns.width) <= MAX_STACKED_CLASSES
        numbers = {block: number for number, block in enumerate(blocks)}

        def group(block: Block) -> tuple[int, str, int]:
            alone = not together or block.kind in ("given", "Curve")
            return block.depth, block.kind, numbers[block] if alone else -1

        for _, members in groupby(sorted(blocks, key=group), key=group):
            self._write(list(members))
        last = self._affine([columns])
        if not self.nodes or last != self.nodes[-1].output[0]:
            self._node("Identity", last)
        self.nodes[-1].output[0] = output_name
        self.part: OnnxPart = (self.nodes, self.constants)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{PREFIX}{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, inputs, [name], name=f"{PREFIX}node_{len(self.nodes)}", **attributes)
        )
        return name

    def _constant(self, value: ArrayLike, dtype: type = np.float32) -> str:
        from onnx import numpy_helper

        name = f"{PREFIX}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def _write(self, group: Sequence[Block]) -> None:
        kind, width = group[0].kind, group[0].width
        if kind == "given":
            self._tensors.append(_Tensor(group[0].name, width, {group[0]: 0}))
            return
        name = self._affine([block.source for block in group if block.source is not None])
        if kind == "Square":
            name = self._node("Mul", name, name)
        elif kind == "HardSigmoid":
            name = self._node(kind, name, alpha=1.0, beta=0.0)
        elif kind == "Curve":
            name = self._curve(name, group[0])
        elif kind in ("Softmax", "LogSoftmax"):  # of each row's blocks, one below the other
            rows = name if len(group) == 1 else self._node("Reshape", name, self._constant([-1, width], np.int64))
            name = self._node(kind, rows, axis=1)
            if len(group) > 1:
                name = self._node("Reshape", name, self._constant([-1, len(group) * width], np.int64))
        elif kind != "Identity":
            name = self._node(kind, name)
        starts = np.cumsum([0, *(block.width for block in group)]).tolist()
        self._tensors.append(_Tensor(name, starts[-1], dict(zip(group, starts, strict=False))))

    def _curve(self, name: str, block: Block) -> str:
        """Σ wᵢ·relu(signᵢ·(x − knotᵢ)) of each number of a row, whatever their number is."""
        assert block.hinges is not None
        signs, knots, weights = block.hinges
        column = self._node("Reshape", name, self._constant([-1, 1], np.int64))
        opened = self._node("Gemm", column, self._constant(signs[None]), self._constant(-signs * knots))
        summed = self._node("MatMul", self._node("Relu", opened), self._constant(weights[:, None]))
        return self._node("Reshape", summed, self._constant([-1, block.width], np.int64))

    def _affine(self, targets: Sequence[Columns]) -> str:
        """The tensor (N, Σ width) of these columns side by side."""
        offset = np.concatenate([one.offset for one in targets])
        total, added = "", not offset.any()
        for tensor in self._tensors:
            matrix = _side_by_side(tensor, targets)
            if matrix is None:
                continue
            if matrix.ndim == 1:
                part = tensor.name if is_identity(matrix) else self._node("Mul", tensor.name, self._constant(matrix))
                total = self._node("Add", total, part) if total else part
            else:
                third = [total] if total else [] if added else [self._constant(offset)]
                added = added or not total
                operator = "Gemm" if third else "MatMul"
                total = self._node(operator, tensor.name, self._constant(matrix), *third)
        return total if added else self._node("Add", total, self._constant(offset))


def _side_by_side(tensor: _Tensor, targets: Sequence[Columns]) -> Floats | None:
    """The matrix from a tensor to all targets, a diagonal if that takes less; None if none reads it."""
    if not any(block in tensor.starts for one in targets for block in one.terms):
        return None
    width = sum(one.width for one in targets)
    if len(targets) == len(tensor.starts) == 1 and tensor.width == width:
        (matrix,) = (m for block, m in targets[0].terms.items() if block in tensor.starts)
        plain = not targets[0].offset.any() and len(targets[0].terms) == 1
        if matrix.ndim == 1 and (plain or is_identity(matrix) or width > MAX_STACKED_CLASSES):
            return matrix
    whole, right = np.zeros((tensor.width, width)), 0
    for one in targets:
        for block, matrix in one.terms.items():
            if block in tensor.starts:
                left = tensor.starts[block]
                whole[left : left + block.width, right : right + one.width] = dense(matrix)
        right += one.width
    return np.ones(width) if is_identity(whole) and tensor.width == width else whole
