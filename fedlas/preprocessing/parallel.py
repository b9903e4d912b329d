"""Parallel decoding: a function over many images on several cores, with the pixels in work limited.

Threads, not processes: Pillow decodes and resizes without the interpreter's lock, and results need no copying.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlas.preprocessing.decoding import MAX_PIXELS, BadImage, image_facts
from fedlas.preprocessing.steps import Preprocessing

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
    """Cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(at_most, cores)


def in_parallel(
    images: Images,
    work: Callable[[int, bytes], None],
    *,
    workers: int,
    broken: dict[int, BadImage] | None = None,
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
    images: Images,
    preprocessing: Preprocessing,
    *,
    workers: int,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """The rows of all images (N, *row), each the same as `preprocessing(image)`.

    Args:
        images: the files' bytes.
        out: where the rows go, perhaps memory-mapped; None makes an array, whose row shape is the first image's.

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
