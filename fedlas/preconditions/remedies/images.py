"""Remedies of images: channels in another order, axes in another order, pictures turned over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from fedlas.data.dataset import Array
from fedlas.preconditions.remedies.remedy import Remedy, on_input
from fedlas.preconditions.remedies.scale import channel_axis, is_image

_SMALLEST_SIDE = 5


def image_remedies(place: int, name: str, rows: Array) -> Iterator[Remedy]:
    """Other readings of the same pixels, of images or of rows that flat images may be."""
    for machine, sentence, change in _readings(rows) if rows.ndim != 2 or is_image(rows) else ():
        yield Remedy(machine, "input_channels", sentence.format(name), on_input(place, change))


def _readings(rows: Array) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    axis = channel_axis(rows)
    if axis is not None:
        yield from _of_images(axis, rows.shape)
    elif rows.ndim == 2:
        yield from _of_flat(rows.shape[1])
    elif rows.ndim == 3 and rows.shape[1] == rows.shape[2]:
        yield "transpose", "exchanging the last two axes of {}", lambda x: x.swapaxes(1, 2)


def _of_images(axis: int, shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    height, width = (2, 3) if axis == 1 else (1, 2)
    channels = shape[axis]
    if channels == 3:
        yield "swap_channels", "reversing the channels of {} (BGR for RGB)", lambda x: x[_reversed(axis)]
    if channels > 1:
        yield ("relayout", "reading {} as " + ("NHWC" if axis == 1 else "NCHW"), lambda x: _relaid(x, axis))
    if shape[height] == shape[width]:
        yield "transpose", "exchanging height and width of {}", lambda x: x.swapaxes(height, width)
    yield "flip_vertical", "turning the images of {} upside down", lambda x: x[_reversed(height)]
    yield "flip_horizontal", "mirroring the images of {}", lambda x: x[_reversed(width)]


def _of_flat(width: int) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    side = math.isqrt(width)
    if side >= _SMALLEST_SIDE and side * side == width:
        yield (
            "transpose",
            "transposing the images that the rows of {} are",
            lambda x: _flat(x, side, side, 1, (0, 2, 1, 3)),
        )
    third = math.isqrt(width // 3)
    if third >= _SMALLEST_SIDE and 3 * third * third == width:
        yield "channels_first", "putting the channels of {} first", lambda x: _flat(x, third, third, 3, (0, 3, 1, 2))
        yield "channels_last", "putting the channels of {} last", lambda x: _flat(x, 3, third, third, (0, 2, 3, 1))


def _flat(x: Array, first: int, second: int, third: int, order: tuple[int, ...]) -> Array:
    return x.reshape(len(x), first, second, third).transpose(order).reshape(len(x), -1)


def _relaid(x: Array, axis: int) -> Array:
    """Pixels whose axes were named wrongly: the same numbers in the same order, read with the channels elsewhere."""
    n, first, second, third = x.shape
    if axis == 1:
        return x.reshape(n, second, third, first).transpose(0, 3, 1, 2)
    return x.reshape(n, third, first, second).transpose(0, 2, 3, 1)


def _reversed(axis: int) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), slice(None, None, -1))
