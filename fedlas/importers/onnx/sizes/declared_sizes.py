"""Rules for operators that read the sizes of their results as numbers: ConstantOfShape, Expand, Pad, Range, Resize."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from fedlas.importers.onnx.graph import attribute, floats, integers
from fedlas.importers.onnx.sizes.shape_rules import (
    ENDLESS,
    Inputs,
    NoRule,
    Shapes,
    as_size,
    broadcast,
    given,
    highest,
    numbers,
    rule,
    shape_of,
)


@rule("ConstantOfShape")
def _constant_of_shape(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    return [tuple(map(as_size, highest(inputs, 0)))]


@rule("HannWindow HammingWindow BlackmanWindow")
def _window(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    return [(as_size(highest(inputs, 0)[0]),)]


@rule("Expand")
def _expand(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape, target = shape_of(inputs, 0), given(inputs, 1)
    exact = target.value is not None and given(inputs, 0).fixed
    return [broadcast([shape, tuple(map(as_size, highest(inputs, 1)))], fixed=exact)]


@rule("Tile")
def _tile(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    return [tuple(as_size(n) * size for n, size in zip(highest(inputs, 1), shape_of(inputs, 0), strict=True))]


@rule("Pad")
def _pad(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape = list(shape_of(inputs, 0))
    widths = highest(inputs, 1) if len(inputs) > 1 else [float(n) for n in integers(node, "pads") or ()]
    axes = numbers(inputs, 3, range(len(shape))) or []
    for axis, before, after in zip(axes, widths, widths[len(axes) :], strict=False):
        shape[axis] = as_size(shape[axis] + before + after)
    return [tuple(shape)]


@rule("Range")
def _range(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    (first, last_first), (least, last), (small, large) = (given(inputs, i).bounds for i in range(3))
    if not all(map(math.isfinite, (first, last_first, least, last, small, large))):
        raise NoRule
    if small > 0:
        return [(as_size(math.ceil(min((last - first) / small, ENDLESS))),)]
    if large < 0:
        return [(as_size(math.ceil(min((last_first - least) / -large, ENDLESS))),)]
    return [(ENDLESS,)]


@rule("Resize Upsample")
def _resize(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    """By sizes or by scales, which may stand in the second place (Upsample, operator set 10) or the third."""
    shape = list(shape_of(inputs, 0))
    axes = [axis % len(shape) for axis in integers(node, "axes") or range(len(shape))]
    if wanted := highest(inputs, 3) if len(inputs) > 3 and inputs[3] is not None else []:
        if attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
            raise NoRule
        for axis, size in zip(axes, wanted, strict=True):
            shape[axis] = as_size(size)
        return [tuple(shape)]
    place = 2 if node.op_type == "Resize" and opset > 10 else 1
    for axis, scale in zip(axes, floats(node, "scales") or highest(inputs, place), strict=True):
        shape[axis] = as_size(math.floor(min(float(np.float32(scale)) * shape[axis] * (1 + 1e-7), ENDLESS)))
    return [tuple(shape)]


@rule("OneHot")
def _one_hot(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape, axis = list(shape_of(inputs, 0)), attribute(node, "axis", -1)
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, as_size(highest(inputs, 1)[0]))
    return [tuple(shape)]


@rule("CenterCropPad")
def _center_crop_pad(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    shape = list(shape_of(inputs, 0))
    for axis, size in zip(integers(node, "axes") or range(len(shape)), highest(inputs, 1), strict=True):
        shape[axis] = as_size(size)
    return [tuple(shape)]


@rule("AffineGrid")
def _affine_grid(node: NodeProto, inputs: Inputs, opset: int) -> Shapes:
    sizes = list(map(as_size, highest(inputs, 1)))
    return [(sizes[0], *sizes[2:], len(sizes) - 2)]
