"""Image files of a request, decoded into a model's rows by the same preprocessing that training used."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence

import numpy as np

from fedlas.preprocessing import BadImage, Preprocessing, image_facts, preprocess_all, usable_cores
from service.predict.engine.profile import TensorSpec
from service.registry.errors import InvalidRequest, TooLarge

#: The limit of one file.
MAX_IMAGE_BYTES = 32 << 20
MAX_BASE64_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 4
#: The limit of all files of a request together: small files can hold many pixels, and each takes time to decode.
MAX_REQUEST_PIXELS = 256_000_000
#: The limit of all rows together: a thousand tiny files would become gigabytes.
MAX_ROWS_BYTES = 64 << 20

_MAX_THREADS = 4
_ADVICE = "send them in parts, or POST /v1/batches over a stored dataset"


def are_objects(rows: Sequence[object]) -> bool:
    """True where the rows are objects: image files, or columns by name; raises InvalidRequest where only some are."""
    objects = [isinstance(row, dict) for row in rows]
    if any(objects) and not all(objects):
        kinds = f"row {objects.index(True)} is an object and row {objects.index(False)} is not"
        raise InvalidRequest("wrong_inputs", f"rows are either all objects or all lists; {kinds}", field="inputs")
    return any(objects)


def is_image(row: object) -> bool:
    return isinstance(row, dict) and set(row) == {"b64"}


def decoded(files: Iterable[bytes], spec: TensorSpec, steps: Preprocessing | None) -> np.ndarray:
    """The model's rows (N, *row) for image files, which are only looked at where the model takes any.

    Raises InvalidRequest `no_preprocessing`, `bad_image` with its row; TooLarge `too_many_pixels`, `too_many_rows`.
    """
    if steps is None:
        needed = f"expected rows of numbers of shape {list(spec.row)}"
        message = f"the model has no preprocessing, so it takes no image files; {needed}"
        raise InvalidRequest("no_preprocessing", message, field="inputs")
    files = list(files)
    for row, file in enumerate(files):
        if len(file) > MAX_IMAGE_BYTES:
            raise _bad_image(row, f"the file has more than {MAX_IMAGE_BYTES >> 20} MiB")
    _check_pixels(files)
    try:
        first = preprocess_all(files[:1], steps, workers=1)[0]
        _check_size(files[0], first, spec, steps)
        most = max(1, MAX_ROWS_BYTES // first.nbytes)
        if len(files) > most:
            message = (
                f"{len(files)} images in one request; at most {most} that become {list(first.shape)} each: {_ADVICE}"
            )
            raise TooLarge("too_many_rows", message, field="inputs")
        made = preprocess_all(files, steps, workers=usable_cores(_MAX_THREADS))
    except BadImage as error:
        raise _bad_image(error.row or 0, f"{error.message} ({error.code})") from error
    return made.astype(spec.dtype, copy=False)


def _check_pixels(files: Sequence[bytes]) -> None:
    pixels = 0
    for row, file in enumerate(files):
        try:
            pixels += image_facts(file).pixels
        except BadImage as error:
            raise _bad_image(row, f"{error.message} ({error.code})") from error
    if pixels > MAX_REQUEST_PIXELS:
        message = f"{pixels / 1e6:.0f} megapixels in one request; at most {MAX_REQUEST_PIXELS / 1e6:.0f}: {_ADVICE}"
        raise TooLarge("too_many_pixels", message, field="inputs")


def _check_size(file: bytes, row: np.ndarray, spec: TensorSpec, steps: Preprocessing) -> None:
    if len(row.shape) == len(spec.row) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(row.shape, spec.row, strict=True)
    ):
        return
    facts = image_facts(file)
    size = [wanted for axis, wanted in zip(steps.layout[1:], spec.row, strict=False) if axis in "HW"]
    message = (
        f"an image of {facts.width} × {facts.height} pixels becomes {list(row.shape)}, and the model takes "
        f"{list(spec.row)}: send the model again with its preprocessing and add resize to it, "
        f'"resize": {size}, or send images of this size'
    )
    raise _bad_image(0, message)


def image_file(number: int, row: object) -> bytes:
    """The bytes of a row `{"b64": …}`; raises InvalidRequest `bad_image`."""
    text = row["b64"] if isinstance(row, dict) and is_image(row) else None
    if not isinstance(text, str):
        raise _bad_image(number, 'expected {"b64": "…"}, an image file in Base64')
    if len(text) > MAX_BASE64_BYTES:
        raise _bad_image(number, f"the file has more than {MAX_IMAGE_BYTES >> 20} MiB")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise _bad_image(
            number, f"b64 is not Base64 (RFC 4648, without line breaks or a data: prefix): {error}"
        ) from error


def _bad_image(row: int, what: str) -> InvalidRequest:
    return InvalidRequest("bad_image", f"row {row}: {what}", field="inputs")
