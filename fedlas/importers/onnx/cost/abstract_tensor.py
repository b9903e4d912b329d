"""An abstract tensor: its sizes at most for rows of any values, and its elements where no row changes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from onnx import helper

from fedlas.importers.onnx.graph import Array, Shape

#: So many elements are computed where they follow from constants and shapes alone.
COMPUTED = 1024
#: More elements than any address holds.
ENDLESS = 2**62


@dataclass(frozen=True, eq=False)
class AbstractTensor:
    """A tensor of a graph whose inputs have given sizes and any values.

    Attributes:
        elem: its type in ONNX's numbering, 0 where it is not known.
        shape: its sizes at most, None where even their number is not known.
        fixed: the sizes follow from the sizes of the inputs alone.
        tainted: the elements follow from values of the inputs.
        value: the elements, where they follow from constants and shapes and are few.
        max_elements: where that is less than the product of the sizes, or the sizes are not known.
    """

    elem: int
    shape: Shape | None
    fixed: bool = True
    tainted: bool = True
    value: Array | None = None
    max_elements: int | None = None

    @property
    def count(self) -> int | None:
        """Elements at most."""
        if self.shape is None:
            return self.max_elements
        product = math.prod(self.shape)
        return product if self.max_elements is None else min(product, self.max_elements)

    @property
    def varies(self) -> bool:
        """Whether its elements may differ from row to row."""
        return self.value is None and self.tainted


Inputs: TypeAlias = Sequence[AbstractTensor | None]
Shapes: TypeAlias = Sequence[Shape | None]


class NoRule(Exception):
    """The rule does not cover this use of the operator."""


class ShapeMismatch(Exception):
    """The operator cannot be computed: its inputs have no sizes like these together."""


def constant_tensor(value: Array) -> AbstractTensor:
    """A tensor of the file."""
    value = np.asarray(value)
    try:
        elem = int(helper.np_dtype_to_tensor_dtype(value.dtype))
    except (KeyError, ValueError):
        elem = 0
    return AbstractTensor(elem, value.shape, tainted=False, value=value if value.size <= COMPUTED else None)


def given(inputs: Inputs, position: int) -> AbstractTensor:
    """An input that a rule needs; raises `NoRule` where there is none."""
    tensor = inputs[position] if position < len(inputs) else None
    if tensor is None:
        raise NoRule(position)
    return tensor


def shape_of(inputs: Inputs, position: int) -> Shape:
    """The sizes of an input; raises `NoRule` where they are not known."""
    shape = given(inputs, position).shape
    if shape is None:
        raise NoRule(position)
    return shape


def numbers(inputs: Inputs, position: int, fallback: Iterable[int] | None = None) -> list[int] | None:
    """The exact whole numbers at a position, `fallback` where there is no such input; `NoRule` where not known."""
    tensor = inputs[position] if position < len(inputs) else None
    if tensor is None:
        return None if fallback is None else list(fallback)
    if tensor.value is None:
        raise NoRule(position)
    return [int(n) for n in np.ravel(tensor.value)]


def numbers_read(inputs: Inputs, position: int) -> list[float]:
    """The numbers at a position; raises `NoRule` where they are not known."""
    tensor = given(inputs, position)
    if tensor.value is None:
        raise NoRule(position)
    return [float(n) for n in np.ravel(tensor.value)]


def as_size(number: float) -> int:
    return int(min(max(number, 0.0), ENDLESS))
