"""Preprocessing of images as data: the steps between a decoded image and a model's input, validated when declared.

The steps and their order are those of torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize` on a Pillow
image, to the last bit where `scale` is left out.

Threads, not processes: Pillow decodes and resizes without the interpreter's lock, and results need no copying.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedlas.contract.profiles import ImagePreprocessing, Size
from fedlas.preprocessing.decoding import MAX_PIXELS, BadImage, decoded, image_facts

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "interpolation": tuple(INTERPOLATIONS),
    "layout": ("NCHW", "NHWC"),
    "channels": (1, 3),
    "order": ("RGB", "BGR"),
    "bit_depth": (8, 16),
    "dtype": ("float32", "uint8"),
}
_MAX_SIDE = 4096
#: Numbers beyond this are a mistake, and float32 must hold what comes of them.
_MAX_NUMBER = 1e6


class Preprocessing(ImagePreprocessing):
    """From the bytes of an image file to one row of a model's input. In this order:

    1. The file is decoded, turned upright (EXIF) and brought to `channels` (3: RGB; 1: luma; no transparency).
    2. `resize`: an int is the length of the shorter side, the longer one follows (rounded down); (height, width) is the
       size itself. Pillow's filters, with antialiasing; `nearest` has none.
    3. `crop`: the middle (height, width); where the image is smaller it is padded with black.
    4. `order`: RGB or BGR.
    5. Numbers: pixels are divided by 255 (65535 where `bit_depth` is 16), or multiplied by `scale` where that is given;
       then `mean` is subtracted and the result divided by `std`, per channel. With the dtype uint8 pixels stay as they
       are.
    6. `layout`: NCHW gives (channels, height, width), NHWC (height, width, channels).
    """

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that JSON describes; a field that is left out (or null) has its default.

        >>> Preprocessing.parse({"resize": 256, "crop": 224}).shape
        (3, 224, 224)

        Raises:
            ValueError: a field is unknown or has a value that cannot be; the message begins with its name.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"preprocessing must be an object with fields like resize and crop, got {value!r:.80}")
        given = {name: item for name, item in value.items() if item is not None}
        if unknown := [name for name in given if name not in cls.model_fields]:
            raise ValueError(f"{unknown[0]}: there is no such field; there are {', '.join(cls.model_fields)}")
        for name, choices in _CHOICES.items():
            if name in given and (type(given[name]) is not type(choices[0]) or given[name] not in choices):
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {given[name]!r:.80}")
        channels, resize = given.get("channels", 3), given.get("resize")
        parsed = cls(
            **{name: given[name] for name in _CHOICES if name in given},
            resize=_side("resize", resize) if isinstance(resize, int) else _size("resize", resize),
            crop=_size("crop", given.get("crop")),
            mean=_per_channel("mean", given.get("mean"), channels),
            std=_per_channel("std", given.get("std"), channels),
            scale=_number("scale", given["scale"]) if "scale" in given else None,
        )
        parsed._check_together()
        return parsed

    def _check_together(self) -> None:
        if self.std is not None and min(self.std) < 1 / _MAX_NUMBER:
            raise ValueError(f"std must be at least {1 / _MAX_NUMBER}, got {list(self.std)}")
        if self.scale is not None and self.scale < 1 / _MAX_NUMBER:
            raise ValueError(f"scale must be at least {1 / _MAX_NUMBER}, got {self.scale}")
        if self.scale is None and self.mean is not None and max(map(abs, self.mean)) > 1:
            raise ValueError(
                f"mean is subtracted after scaling to 0..1, but it is {list(self.mean)}; "
                'send "scale": 1 with a mean (and std) for pixels from 0 to 255'
            )
        if self.order == "BGR" and self.channels == 1:
            raise ValueError("order: BGR needs 3 channels")
        if self.dtype == "uint8":
            for name in ("mean", "std", "scale"):
                if getattr(self, name) is not None:
                    raise ValueError(f"dtype: uint8 takes pixels as they are, but {name} is given")
            if self.bit_depth == 16:
                raise ValueError("dtype: uint8 does not hold a bit_depth of 16")

    def as_dict(self) -> dict[str, Any]:
        """JSON that `parse` reads, with every field that has a value."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of one row; None for a side that follows from the image."""
        fixed = self.crop or (self.resize if isinstance(self.resize, tuple) else (None, None))
        return (self.channels, *fixed) if self.layout == "NCHW" else (*fixed, self.channels)

    def __call__(self, image_bytes: bytes) -> NDArray[Any]:
        """One row, of shape `shape` and type `dtype`.

        Raises:
            BadImage: the file is no image that is read here; see its codes in `fedlas.preprocessing.decoding`.
        """
        image = decoded(image_bytes, channels=self.channels, sixteen_bit=self.bit_depth == 16)
        image = _cropped(self._resized(image), self.crop)
        pixels = np.asarray(image)
        planes = [pixels[..., i] for i in range(3)] if pixels.ndim == 3 else [pixels] * self.channels
        ordered = reversed(planes) if self.order == "BGR" else planes
        numbers = [self._numbers(plane, i) for i, plane in enumerate(ordered)]
        return np.stack(numbers, axis=0 if self.layout == "NCHW" else -1)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.resize is None:
            return image
        width, height = image.size
        if isinstance(self.resize, tuple):
            wanted = (self.resize[1], self.resize[0])
        elif width <= height:
            wanted = (self.resize, int(self.resize * height / width))
        else:
            wanted = (int(self.resize * width / height), self.resize)
        if wanted[0] * wanted[1] > MAX_PIXELS:
            raise BadImage("image_too_large", f"{width} x {height} pixels become {wanted[0]} x {wanted[1]} by resizing")
        return image if wanted == image.size else image.resize(wanted, INTERPOLATIONS[self.interpolation])

    def _numbers(self, plane: NDArray[Any], channel: int) -> NDArray[Any]:
        """One channel in float32, each operation rounded as torchvision rounds it."""
        if self.dtype == "uint8":
            return plane
        numbers = plane.astype(np.float32)
        if self.scale is None:
            numbers /= np.float32(255 if self.bit_depth == 8 else 65535)
        else:
            numbers *= np.float32(self.scale)
        if self.mean is not None:
            numbers -= np.float32(self.mean[channel])
        if self.std is not None:
            numbers /= np.float32(self.std[channel])
        return numbers


def _cropped(image: Image.Image, crop: Size | None) -> Image.Image:
    """The middle; sides that are too short are padded with 0 first, the odd pixel after the image."""
    if crop is None or (image.height, image.width) == crop:
        return image
    height, width = crop
    padded = (max(width, image.width), max(height, image.height))
    if padded != image.size:
        canvas = Image.new(image.mode, padded)
        canvas.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = canvas
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _size(name: str, value: object) -> Size | None:
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 2:
        return _side(name, value[0]), _side(name, value[1])
    side = _side(name, value)
    return side, side


def _side(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIDE:
        raise ValueError(
            f"{name} must be a number of pixels from 1 to {_MAX_SIDE}, or [height, width], got {value!r:.80}"
        )
    return value


def _per_channel(name: str, value: object, channels: int) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        return [_number(name, value)] * channels
    if len(value) != channels:
        raise ValueError(f"{name} must be a number, or one number for each of the {channels} channels, got {value!r}")
    return [_number(name, item) for item in value]


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
        raise ValueError(f"{name} must be a number no further from 0 than {_MAX_NUMBER:.0f}, got {value!r:.80}")
    return float(value)


_CHUNK = 32
#: Images up to this size are not counted: dozens of threads together hold no more of them than one large image takes.
_SMALL_PIXELS = 1_000_000


class Images(Protocol):
    """Files, one after another: a list, or an `ImageColumn`, which reads them when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> bytes: ...


class _PixelBudget:
    """Lets large images in only as long as those in work in this process together have at most `MAX_PIXELS` pixels."""

    def __init__(self) -> None:
        self._left, self._changed = MAX_PIXELS, threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


_BUDGET = _PixelBudget()


def usable_cores(at_most: int = 16) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(at_most, cores)


def in_parallel(
    images: Images, work: Callable[[int, bytes], None], *, workers: int, broken: dict[int, BadImage] | None = None
) -> None:
    """Call `work(i, content)` for every image, on `workers` threads.

    Args:
        broken: takes the errors of images by their places; None raises the first.

    Raises:
        BadImage: of the first image, in their order, for which `work` raises it; `row` is its place.
    """
    stopped = threading.Event()

    def work_on(rows: range) -> None:
        for i in rows:
            if stopped.is_set():
                return
            content = images[i]
            try:
                pixels = image_facts(content).pixels
                with _BUDGET.hold(pixels if pixels > _SMALL_PIXELS else 0):
                    work(i, content)
            except BadImage as error:
                if broken is None:
                    raise BadImage(error.code, error.message, row=i) from error
                broken[i] = error

    chunks = [range(start, min(start + _CHUNK, len(images))) for start in range(0, len(images), _CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            work_on(chunk)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        try:
            for _ in pool.map(work_on, chunks):
                pass
        finally:
            stopped.set()


def preprocess_all(
    images: Images, preprocessing: Preprocessing, *, workers: int, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The rows of all images (N, *row), each the same as `preprocessing(image)`.

    They go to `out`, which may be memory-mapped; None makes an array, whose row shape is the first image's.

    Raises:
        BadImage: with `row`, of the first image that cannot be read; `wrong_size` where its row has another shape.
    """
    if out is None:
        out = np.empty((len(images), *_row_shape(images, preprocessing)), preprocessing.dtype)
    if len(out) != len(images):
        raise ValueError(f"out has {len(out)} rows for {len(images)} images")
    rows = out

    def work(i: int, content: bytes) -> None:
        row = preprocessing(content)
        if row.shape != rows.shape[1:]:
            raise BadImage(
                "wrong_size",
                f"the image becomes {row.shape}, but {rows.shape[1:]} is needed; "
                "resize and crop of the preprocessing bring all images to one size",
            )
        rows[i] = row

    in_parallel(images, work, workers=workers)
    return rows


def _row_shape(images: Images, preprocessing: Preprocessing) -> tuple[int, ...]:
    if None not in preprocessing.shape or not len(images):
        return tuple(size or 0 for size in preprocessing.shape)
    shapes: list[tuple[int, ...]] = []
    in_parallel([images[0]], lambda _, content: shapes.append(preprocessing(content).shape), workers=1)
    return shapes[0]
