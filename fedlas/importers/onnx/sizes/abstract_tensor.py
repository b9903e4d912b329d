"""An abstract tensor: its sizes at most, and an interval for its elements, for rows of any values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from onnx import TensorProto, helper

from fedlas.importers.onnx.graph import Array, Shape

#: Up to so many elements each has an interval of its own (shapes are tensors of a few), …
FEW = 64
#: … and so many are computed where they follow from constants and shapes alone.
COMPUTED = 1024
#: Of larger constants the least and the largest element are not looked for, unless they are whole numbers.
_SEARCHED = 1 << 14
_INTEGERS = {TensorProto.DataType.Value(f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True, eq=False)
class AbstractTensor:
    """A tensor of a graph whose inputs have given sizes and any values.

    Attributes:
        elem: its type in ONNX's numbering, 0 where it is not known.
        shape: its sizes at most, None where even their number is not known.
        low, high: bounds of its elements, one pair for all or one for each; those of floats do not speak of NaN.
        fixed: the sizes follow from the sizes of the inputs alone.
        tainted: the elements follow from values of the inputs.
        value: the elements, where they follow from constants and shapes and are few.
        max_elements: where that is less than the product of the sizes, or the sizes are not known.
    """

    elem: int
    shape: Shape | None
    low: Array
    high: Array
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
        return self.value is None and self.tainted and not bool(np.all(self.low == self.high))

    @property
    def per_element(self) -> bool:
        """Whether every element has bounds of its own."""
        return self.shape is not None and self.low.shape == self.shape == self.high.shape

    @property
    def bounds(self) -> tuple[float, float]:
        """One pair of bounds for all elements."""
        if not self.low.size:
            return 0.0, 0.0
        return float(self.low.min()), float(self.high.max())


def limits_of(elem: int) -> tuple[float, float]:
    """The least and the largest number of a type; floats are infinite."""
    if elem == TensorProto.BOOL:
        return 0.0, 1.0
    if elem not in _INTEGERS:
        return -math.inf, math.inf
    info = np.iinfo(helper.tensor_dtype_to_np_dtype(elem))
    return float(info.min), float(info.max)


def is_whole(elem: int) -> bool:
    """Whether numbers of a type are integers or booleans."""
    return elem in _INTEGERS or elem == TensorProto.BOOL


def bounded_tensor(
    elem: int,
    shape: Shape | None,
    low: ArrayLike,
    high: ArrayLike,
    *,
    computed: bool = False,
    tainted: bool = True,
    value: Array | None = None,
) -> AbstractTensor:
    """A tensor with these bounds, as far as its type has them: integers that overflow may be any number.

    Bounds of another shape than the tensor's hold for all of its elements. `computed` tells that they are results of
    arithmetic, which may overflow, not elements of other tensors.
    """
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    least, largest = limits_of(elem)
    if is_whole(elem):
        over = (low < least) | (high > largest)
        if computed:  # beyond 2^53 float64 does not tell 2^63 - 1 from what overflows
            over |= (low < -(2.0**53)) | (high > 2.0**53)
        low, high = np.where(over, least, low), np.where(over, largest, high)
    elif elem in FLOATS:
        top = float(np.finfo(np.float32 if elem == TensorProto.BFLOAT16 else helper.tensor_dtype_to_np_dtype(elem)).max)
        low, high = np.where(low < -top, -np.inf, low), np.where(high > top, np.inf, high)
    few = shape is not None and math.prod(shape) <= FEW
    if low.shape != shape or not few:
        low, high = (np.asarray(low.min() if low.size else 0.0), np.asarray(high.max() if high.size else 0.0))
        if few and shape is not None:
            low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    return AbstractTensor(elem, shape, low, high, tainted=tainted, value=value)


def constant_tensor(value: Array) -> AbstractTensor:
    """A tensor of the file."""
    value = np.asarray(value)
    try:
        elem = int(helper.np_dtype_to_tensor_dtype(value.dtype))
    except (KeyError, ValueError):
        elem = 0
    kept = value if value.size <= COMPUTED else None
    low: ArrayLike = -np.inf
    high: ArrayLike = np.inf
    if value.dtype.kind in "biu" or (value.dtype.kind == "f" and value.size <= _SEARCHED):
        if 0 < value.size <= FEW:
            low = high = value.astype(np.float64)
        elif value.size:
            low, high = float(value.min()), float(value.max())
    return bounded_tensor(elem, value.shape, low, high, tainted=False, value=kept)


def unbounded_tensor(elem: int, shape: Shape | None, *, tainted: bool = True) -> AbstractTensor:
    """A tensor whose elements may be any numbers of its type."""
    low, high = limits_of(elem)
    if shape is not None and math.prod(shape) <= FEW:
        return AbstractTensor(elem, shape, np.full(shape, low), np.full(shape, high), tainted=tainted)
    return AbstractTensor(elem, shape, np.asarray(low), np.asarray(high), tainted=tainted)
