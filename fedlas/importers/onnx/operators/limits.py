"""Limits of the tensors that a graph may declare: a few bytes of a file can ask for petabytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedlas.errors import UnsupportedModel

#: Bytes of the largest tensor that is computed while a graph is examined; those of sane classifiers are far below.
MAX_BYTES = 2**31
#: Elements of the largest tensor that an operator makes up from numbers alone (1 GiB of float32).
MAX_ELEMENTS = 2**28


def bounded(shape: Sequence[int], *, limit: int = MAX_ELEMENTS) -> list[int]:
    """`shape` as a list.

    Raises:
        UnsupportedModel: `declared_size` where a tensor of that shape has more than `limit` elements.
    """
    if math.prod(shape) > limit:
        raise UnsupportedModel(
            "declared_size", f"the graph declares a tensor of shape {tuple(shape)}; {limit} elements are the limit"
        )
    return list(shape)
