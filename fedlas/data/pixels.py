"""Image files of a dataset become the rows of a model's input by the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedlas.data.array_builder import ArrayFactory
from fedlas.data.casting import Spec, cast, fits, shown
from fedlas.data.dataset import Array
from fedlas.data.image_column import ImageColumn
from fedlas.errors import BadDataset, Mismatch
from fedlas.preprocessing import BadImage, Preprocessing, preprocess_all, usable_cores

_EXAMPLE = 'preprocessing={"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'
_BLOCK_BYTES = 1 << 25


def check_preprocessing(preprocessing: Preprocessing, model_inputs: Sequence[Spec]) -> None:
    """Raise Mismatch `preprocessing_mismatch` unless some input of the model takes what the preprocessing makes."""
    faults = [_unfit(preprocessing, spec) for spec in model_inputs]
    if None not in faults:
        raise Mismatch("preprocessing_mismatch", str(faults[0]))


def pixels(
    name: str, images: ImageColumn, spec: Spec, preprocessing: Preprocessing | None, scratch: Path | None
) -> Array:
    """What the model's preprocessing makes of the files, block by block."""
    if preprocessing is None:
        raise Mismatch(
            "preprocessing_needed",
            f"the dataset's '{name}' are image files, but the model does not say how they become {shown(spec)}; "
            f"send it again with its preprocessing, for example {_EXAMPLE}",
        )
    if (fault := _unfit(preprocessing, spec)) is not None:
        raise Mismatch("inputs_mismatch", fault)
    wanted = tuple(spec["shape"])[1:]
    row = wanted if all(isinstance(size, int) and size >= 0 for size in wanted) else _first_row(images, preprocessing)
    step = max(1, _BLOCK_BYTES // (4 * max(1, int(np.prod(row)))))
    with ArrayFactory(scratch, allow_nan=True).builder(name) as rows:
        for start in range(0, len(images), step):
            block = images[start : start + step]
            out = np.empty((len(block), *row), preprocessing.dtype)
            try:
                preprocess_all(block, preprocessing, workers=usable_cores(), out=out)
            except BadImage as error:
                raise _bad_image(name, images.place(start + (error.row or 0)), error) from error
            rows.append(cast(name, out, spec, None))
        return rows.finish()


def _first_row(images: ImageColumn, preprocessing: Preprocessing) -> tuple[int, ...]:
    """The shape that all rows must have, where neither the model nor the preprocessing fixes it."""
    try:
        return preprocess_all(images[:1], preprocessing, workers=1).shape[1:]
    except BadImage as error:
        raise _bad_image("images", images.place(0), error) from error


def _bad_image(name: str, row: int, error: BadImage) -> BadDataset:
    return BadDataset(error.code, f"'{name}', row {row} (counted from 0): {error.message}")


def _unfit(preprocessing: Preprocessing, spec: Spec) -> str | None:
    """A sentence where the model's input does not take what the preprocessing makes."""
    wanted, made = tuple(spec["shape"])[1:], preprocessing.shape
    text = f"the model's input {shown(spec)} does not fit what its preprocessing makes of an image: "
    text += f"{preprocessing.dtype} {tuple('any' if size is None else size for size in made)}"
    if not fits(wanted, made):
        other = "NHWC" if preprocessing.layout == "NCHW" else "NCHW"
        turned = replace(preprocessing, layout=other)
        return text + (f'; say "layout": "{other}"' if fits(wanted, turned.shape) else "")
    if np.dtype(spec["dtype"]).kind in "iub" and preprocessing.dtype != "uint8":
        return text + '; say "dtype": "uint8" for pixels from 0 to 255 as they are'
    return None
