"""Mistakes in the preprocessing of images; labels are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.data.common import Array
from benchmarks.mistakes.bases import Base
from benchmarks.mistakes.kinds import Kinds
from benchmarks.mistakes.pair import Pair

IMAGES = Kinds()
_SCALE = ("input_scale",)


def _made(base: Base, change: Callable[[Array], Array], **options: Any) -> Pair | None:
    """The pair with `change` of pixels (0 to 1) as its input, or with other preprocessing said for image files."""
    if base.wants == "files":
        said = {**base.pair.model_options["preprocessing"], **options}
        kept = {name: value for name, value in said.items() if value is not None}
        return replace(base.pair, model_options={"preprocessing": kept}) if options else None
    if base.wants not in ("unit", "pixels", "normalised"):
        return None
    return base.pair.with_inputs(lambda x: np.ascontiguousarray(change(_unit(base, x)), np.float32))


def _unit(base: Base, x: Array) -> Array:
    match base.wants:
        case "pixels":
            return x / 255
        case "normalised":
            return x * base.std + base.mean
    return x


def _as_wanted(base: Base, unit: Array) -> Array:
    return {"unit": unit, "pixels": 255 * unit, "normalised": (unit - base.mean) / base.std}[base.wants]


@IMAGES.kind("no /255", *_SCALE, remedy=r"255")
def _no_division(base: Base) -> Pair | None:
    if base.wants == "pixels":
        return None
    return _made(
        base, lambda unit: (255 * unit - base.mean) / base.std if base.wants == "normalised" else 255 * unit, scale=1.0
    )


@IMAGES.kind("no /255, pixels as uint8", *_SCALE, remedy=r"255")
def _bytes(base: Base) -> Pair | None:
    if base.wants != "unit":
        return None
    return base.pair.with_inputs(lambda x: (255 * x).round().astype(np.uint8))


@IMAGES.kind("/255 twice", *_SCALE, remedy=r"255|standardi")
def _divided_twice(base: Base) -> Pair | None:
    if base.wants == "pixels":  # the graph divides by its own
        return _made(base, lambda unit: unit)
    return _made(base, lambda unit: _as_wanted(base, unit / 255), scale=1 / 255**2)


@IMAGES.kind("no mean and std", *_SCALE, remedy=r"standardi|mean|\[-1, 1\]")
def _not_normalised(base: Base) -> Pair | None:
    return _made(base, lambda unit: unit, mean=None, std=None) if base.wants in ("normalised", "files") else None


@IMAGES.kind("neither /255 nor mean and std", *_SCALE, remedy=r"255")
def _pixels(base: Base) -> Pair | None:
    wanted = base.wants in ("normalised", "files")
    return _made(base, lambda unit: 255 * unit, mean=None, std=None, scale=1.0) if wanted else None


@IMAGES.kind("mean and std twice", *_SCALE, remedy=r"standardi|normali|mean|twice")
def _normalised_twice(base: Base) -> Pair | None:
    if base.wants != "normalised":
        return None
    return _made(base, lambda unit: ((unit - base.mean) / base.std - base.mean) / base.std)


@IMAGES.kind("mean and std, though the graph has them", *_SCALE, remedy=r"standardi|normali|mean|255")
def _normalised_before(base: Base) -> Pair | None:
    return _made(base, lambda unit: (unit - base.mean) / base.std) if base.wants == "pixels" else None


@IMAGES.kind("BGR", "input_channels", remedy=r"BGR|RGB|channel")
def _bgr(base: Base) -> Pair | None:
    coloured = base.kind == "pretrained"
    return _made(base, lambda unit: _as_wanted(base, unit[:, ::-1]), order="BGR") if coloured else None


@IMAGES.kind("NHWC reshaped to NCHW", "input_channels", "input_scale", remedy=r"NHWC|NCHW|layout|transpose")
def _reshaped(base: Base) -> Pair | None:
    if base.kind != "pretrained" or base.wants == "files":
        return None
    return _made(base, lambda unit: _as_wanted(base, unit).transpose(0, 2, 3, 1).reshape(unit.shape))


@IMAGES.kind("inverted", "input_scale", remedy=r"invert|negative|255 - |1 - ")
def _inverted(base: Base) -> Pair | None:
    if base.wants == "files" and base.pair.images is not None:
        return replace(base.pair, images=255 - base.pair.images)
    return _made(base, lambda unit: _as_wanted(base, 1 - unit))
