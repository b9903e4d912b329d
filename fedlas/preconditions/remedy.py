"""The remedy: a change of the inputs that would undo one mistake, of their scale or of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlas.data.dataset import Array
from fedlas.documents import shortened

Rows = list[Array]
Change = Callable[[Rows], Rows]
#: Largest values of kinds of data: images of 8, 10, 12 and 16 bits, digits of 16 grey values, percent.
_BOUNDS = (1, 16, 100, 255, 1023, 4095, 65535)
_IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_MNIST = np.array([0.1307]), np.array([0.3081])
#: Factors of tables, among them that of pixels, which standardised columns may have been multiplied by, too.
_FACTORS = (10, 100, 255, 1000)
_FACTOR_GAIN = 0.3
#: From so many columns of one range on a row may be a flat image.
_FLAT_IMAGE = 25
_ONE_RANGE = 0.3
#: How far from mean 0 and deviation 1 columns lie that nobody has standardised.
_FAR_MEAN = 3.0
_FAR_RATIO = 5.0
_MIN_SIDE = 5


@dataclass(frozen=True)
class Remedy:
    """A change to the rows of all inputs.

    Attributes:
        name: for machines, `divide_by_255`.
        code: of the notice that names it.
        sentence: what it does, as a subject: "dividing 'x' by 255".
        least_gain: the share of the loss that it must take away to explain anything.
        near_chance: it fits itself to the rows, so that it may also mend a mere shift of the data: it explains only
            answers that tell next to nothing of the labels.
        control: a change that the same rows would gain by if the remedy only hid what harms; it must explain less.
        searched: it is the best of many that were tried, so that it may only undo a shift of the data.
        scales: it multiplies the inputs, so that it may mend confidence alone, and all answers are as right as before.
    """

    name: str
    code: str
    sentence: str
    change: Change
    least_gain: float = 0.07
    near_chance: bool = False
    control: Change | None = None
    scales: bool = False
    searched: bool = False


def on_input(place: int, change: Callable[[Array], Array]) -> Change:
    """The change of one input, in its type."""

    def changed(rows: Rows) -> Rows:
        made = change(rows[place])
        if rows[place].dtype.kind in "ui" and made.dtype.kind == "f":
            made = np.rint(made)
        return [*rows[:place], made.astype(rows[place].dtype), *rows[place + 1 :]]

    return changed


def column_name(columns: Sequence[str] | None, place: int) -> str:
    return (
        f"'{shortened(columns[place])}'"
        if columns is not None and place < len(columns)
        else f"{place} (counted from 0)"
    )


def scale_remedies(place: int, name: str, rows: Array) -> Iterator[Remedy]:
    """Remedies that repeat what training may have done to an input of numbers; the likeliest first."""
    low, high = float(np.nanmin(rows)), float(np.nanmax(rows))
    integers = rows.dtype.kind in "ui"
    if low < 0 and not integers:
        yield from _undone(place, name, rows)
    elif low >= 0 and high > 0:
        yield from _by_bound(place, name, rows, high, integers)
    if rows.dtype.kind == "f":
        yield from _standardised(place, name, rows)
    if rows.ndim == 2 and not integers:
        for power in _FACTORS:
            down, up = (f"{word} {name} by {power}" for word in ("dividing", "multiplying"))
            yield replace(_linear(place, name, f"divide_by_{power}", down, 1 / power), least_gain=_FACTOR_GAIN)
            yield replace(_linear(place, name, f"multiply_by_{power}", up, power), least_gain=_FACTOR_GAIN)


def channel_axis(rows: Array) -> int | None:
    """The axis of an image's channels (N, C, H, W) or (N, H, W, C), if these are images."""
    if rows.ndim != 4:
        return None
    return next((axis for axis in (1, 3) if rows.shape[axis] in (1, 3, 4)), None)


def is_image(rows: Array) -> bool:
    """True where rows are images, or may be flat ones: many columns of one range."""
    if rows.ndim != 2:
        return channel_axis(rows) is not None
    most = np.nanmax(np.abs(rows.astype(np.float64)), axis=0)
    return rows.shape[1] >= _FLAT_IMAGE and bool(np.median(most) > _ONE_RANGE * most.max())


def _by_bound(place: int, name: str, rows: Array, high: float, integers: bool) -> Iterator[Remedy]:
    if (bound := next((most for most in _BOUNDS if high <= most), None)) is None:
        return
    if bound > 1 and not integers:
        yield _linear(place, name, f"divide_by_{bound}", f"dividing {name} by {bound}", 1 / bound)
    if bound == 1:
        yield _linear(place, name, "multiply_by_255", f"multiplying {name} by 255", 255)
        yield _linear(place, name, "multiply_by_16", f"multiplying {name} by 16", 16)
    if not integers:
        yield _linear(
            place, name, "to_minus_one_and_one", f"bringing {name} from [0, {bound}] to [-1, 1]", 2 / bound, -1
        )
        yield from _normalised(place, name, rows, bound)
        if bound > 1:
            # Divided once too often in training, or read from files that were.
            yield _linear(place, name, f"divide_by_{bound}_twice", f"dividing {name} by {bound} twice", 1 / bound**2)
    if bound == 1 and not integers and high < 1 / 100:
        yield _linear(place, name, "multiply_by_65025", f"multiplying {name} by 255 twice", 255**2)
    if is_image(rows):
        yield _linear(place, name, "invert", f"inverting {name} (dark for bright)", -1, bound)


def _normalised(place: int, name: str, rows: Array, bound: float) -> Iterator[Remedy]:
    if (axis := channel_axis(rows)) is None or rows.shape[axis] not in (1, 3):
        return
    colour = rows.shape[axis] == 3
    mean, deviation = _IMAGENET if colour else _MNIST
    words = "ImageNet's" if colour else "MNIST's"
    divided = f" (after a division by {bound})" if bound > 1 else ""
    yield Remedy(
        "normalise_imagenet" if colour else "normalise_mnist",
        "input_scale",
        f"normalising {name} by {words} mean and deviation{divided}",
        on_input(place, lambda x: (x / bound - _along(mean, axis)) / _along(deviation, axis)),
    )


def _undone(place: int, name: str, rows: Array) -> Iterator[Remedy]:
    """Data that were normalised, for a model that does it itself or takes them as they are."""
    low, high = float(np.nanmin(rows)), float(np.nanmax(rows))
    if low >= -1 and high <= 1:
        yield _linear(place, name, "to_zero_and_one", f"bringing {name} from [-1, 1] to [0, 1]", 0.5, 0.5)
        yield _linear(place, name, "to_zero_and_255", f"bringing {name} from [-1, 1] to [0, 255]", 127.5, 127.5)
    if (axis := channel_axis(rows)) is not None and rows.shape[axis] in (1, 3):
        yield from _normalised_otherwise(place, name, axis, rows.shape[axis])
    if axis is not None:
        yield _linear(place, name, "negate", f"inverting {name} (dark for bright)", -1)


def _normalised_otherwise(place: int, name: str, axis: int, channels: int) -> Iterator[Remedy]:
    """Images that a mean and a deviation were taken of, but of other numbers than in training."""
    mean, deviation = (_along(values, axis) for values in (_IMAGENET if channels == 3 else _MNIST))

    def pixels(x: Array) -> Any:
        return x * deviation + mean

    def again(x: Any) -> Any:
        return (x - mean) / deviation

    once = "the normalisation (mean and deviation)"
    for machine, sentence, change in (
        ("undo_normalisation", f"undoing {once} of {name}, which is one too many,", pixels),
        ("undo_normalisation_255", f"undoing {once} of {name} (back to [0, 255])", lambda x: 255 * pixels(x)),
        ("divide_by_255", f"dividing {name} by 255 before {once}", lambda x: again(pixels(x) / 255)),
        ("multiply_by_255", f"one division of {name} by 255 less before {once}", lambda x: again(255 * pixels(x))),
        ("invert", f"inverting {name} (dark for bright) before {once}", lambda x: again(1 - pixels(x))),
    ):
        yield Remedy(machine, "input_scale", sentence, on_input(place, change))


def _standardised(place: int, name: str, rows: Array) -> Iterator[Remedy]:
    """By the rows' own mean and deviation: of every column, or of every channel."""
    axis = channel_axis(rows)
    if rows.ndim != 2 and axis is None:
        return
    others = tuple(i for i in range(rows.ndim) if i != (1 if axis is None else axis))
    wide = rows.astype(np.float64)
    mean, deviation = np.nanmean(wide, others, keepdims=True), np.nanstd(wide, others, keepdims=True)
    varied = deviation > 0
    deviation = np.where(varied, deviation, 1)
    far = (
        (np.abs(mean) > _FAR_MEAN)
        | (deviation > _FAR_RATIO)
        | (deviation < 1 / _FAR_RATIO)
        | (np.abs(mean) > deviation)
    )
    if not varied.any() or far[varied].mean() < 0.5:
        return
    yield Remedy(
        "standardise",
        "input_scale",
        f"standardising {'the columns' if rows.ndim == 2 else 'the channels'} of {name} (mean 0, deviation 1)",
        on_input(place, lambda x: (x - mean) / deviation),
        least_gain=0.3,
        near_chance=True,
    )
    low, high = np.nanmin(wide, others, keepdims=True), np.nanmax(wide, others, keepdims=True)
    if rows.ndim == 2 and (low.max() > low.min() or high.max() > high.min()):
        width = np.where(high > low, high - low, 1)
        yield Remedy(
            "to_unit_range",
            "input_scale",
            f"bringing every column of {name} to [0, 1]",
            on_input(place, lambda x: (x - low) / width),
            least_gain=0.3,
            near_chance=True,
        )


def _linear(place: int, name: str, machine: str, sentence: str, factor: float, offset: float = 0.0) -> Remedy:
    return Remedy(
        machine,
        "input_scale",
        sentence,
        on_input(place, lambda x: x * factor + offset),
        scales=not offset and factor > 0,
    )


def _along(values: Any, axis: int) -> Any:
    return values[:, None, None] if axis == 1 else values


def image_remedies(place: int, name: str, rows: Array) -> Iterator[Remedy]:
    """Other readings of the same pixels, of images or of rows that flat images may be."""
    for machine, sentence, change in _readings(rows) if rows.ndim != 2 or is_image(rows) else ():
        yield Remedy(machine, "input_channels", sentence.format(name), on_input(place, change))


def _readings(rows: Array) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    if (axis := channel_axis(rows)) is not None:
        yield from _of_images(axis, rows.shape)
    elif rows.ndim == 2:
        yield from _of_flat(rows.shape[1])
    elif rows.ndim == 3 and rows.shape[1] == rows.shape[2]:
        yield "transpose", "exchanging the last two axes of {}", lambda x: x.swapaxes(1, 2)


def _of_images(axis: int, shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    height, width = (2, 3) if axis == 1 else (1, 2)
    if (channels := shape[axis]) == 3:
        yield "swap_channels", "reversing the channels of {} (BGR for RGB)", lambda x: x[_reversed(axis)]
    if channels > 1:
        yield ("relayout", "reading {} as " + ("NHWC" if axis == 1 else "NCHW"), lambda x: _relaid(x, axis))
    if shape[height] == shape[width]:
        yield "transpose", "exchanging height and width of {}", lambda x: x.swapaxes(height, width)
    yield "flip_vertical", "turning the images of {} upside down", lambda x: x[_reversed(height)]
    yield "flip_horizontal", "mirroring the images of {}", lambda x: x[_reversed(width)]


def _of_flat(width: int) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    if (side := math.isqrt(width)) >= _MIN_SIDE and side * side == width:
        yield (
            "transpose",
            "transposing the images that the rows of {} are",
            lambda x: _flat(x, side, side, 1, (0, 2, 1, 3)),
        )
    if (third := math.isqrt(width // 3)) >= _MIN_SIDE and 3 * third * third == width:
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
