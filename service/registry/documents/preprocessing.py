"""Preprocessing of images, as JSON: `fedlas.preprocessing.Preprocessing` checks it and carries it out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.documents.base import Document, is_absent

Size = tuple[int, int]


class ImagePreprocessing(Document):
    """From the bytes of an image file to one row of a model's input; a field without a value is left out."""

    resize: int | Size | None = Field(
        None, description="Length of the shorter side, or `[height, width]`.", exclude_if=is_absent
    )
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos", "box"] = "bilinear"
    crop: Size | None = Field(None, description="The middle `[height, width]`.", exclude_if=is_absent)
    mean: list[float] | None = Field(None, description="Subtracted, per channel.", exclude_if=is_absent)
    std: list[float] | None = Field(None, description="Divides what is left, per channel.", exclude_if=is_absent)
    scale: float | None = Field(
        None,
        description="Multiplies the pixels; without it they are divided by their largest value.",
        exclude_if=is_absent,
    )
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal[1, 3] = 3
    order: Literal["RGB", "BGR"] = "RGB"
    bit_depth: Literal[8, 16] = 8
    dtype: Literal["float32", "uint8"] = "float32"
