"""Row axes: which axis of a reshaped tensor carries the rows, told from its shapes for two numbers of rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedlas.importers.onnx.graph import Shape


class AmbiguousShape(Exception):
    """This reading of the shapes does not lead to an independent computation of rows."""


@dataclass(frozen=True)
class AxisCandidate:
    """A candidate axis of a Reshape's result for carrying the rows."""

    axis: int
    same: bool  # the result has the input's other axes, before and after
    exact: bool  # the size is the batch itself, at a boundary of the input's axes
    last: bool
    aligned: bool  # the result has the input's axes before it


# What is likeliest, in several readings: merged axes (rows · heads) leave room for doubt when the batch was one.
Preference = Callable[[AxisCandidate], tuple[object, ...]]
PREFERENCES: tuple[Preference, ...] = (
    lambda p: (not p.same, not p.exact, p.last, not p.aligned, p.axis),
    lambda p: (not p.same, not p.exact, p.last, p.axis),
    lambda p: (not p.exact, not p.aligned, p.axis),
    lambda p: (p.axis,),
)


def row_axis(old: Shape, new: Shape, result: Shape, *, batch: int, prefer: Preference) -> int:
    """The axis of a Reshape's result that carries the rows.

    Args:
        old, new: the shapes that are reshaped with `batch` rows and with one more.
        result: the shape of the result with `batch` rows.

    Raises:
        AmbiguousShape: there is no such axis.
    """
    carriers = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if len(carriers) != 1 or new[carriers[0]] * batch != old[carriers[0]] * (batch + 1):
        raise AmbiguousShape(f"a Reshape of {old} has no clear batch axis")
    source = carriers[0]
    before, after = math.prod(old[:source]), math.prod(old[source + 1 :])
    stride = after * old[source] // batch  # between rows, at most
    candidates = []
    for axis, size in enumerate(result):
        inner = math.prod(result[axis + 1 :])
        if size % batch or inner > stride or inner * size < after * batch:
            continue
        outer = math.prod(result[:axis])
        same = result[:axis] == old[:source] and result[axis + 1 :] == old[source + 1 :]
        exact = size == batch and (outer == before or inner == after)
        last, aligned = axis == len(result) - 1, result[:axis] == old[:source]
        candidates.append(AxisCandidate(axis, same=same, exact=exact, last=last, aligned=aligned))
    if not candidates:
        raise AmbiguousShape(f"a Reshape from {old} to {result} mixes rows")
    return min(candidates, key=prefer).axis
