"""Request formats of `predict` besides JSON: a body becomes the arrays that a model takes.

`npy` reads numpy's files, `multipart` forms of image files; `options` reads the answer options beside the rows, and
`input_types` fits arrays and files to the model's inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.inference.formats.input_types import InputTypes
from service.inference.formats.multipart import media_type, read_form
from service.inference.formats.npy import read_npy
from service.inference.formats.options import Options, from_query, merged
from service.inference.profile import ServingProfile
from service.registry.errors import InvalidRequest, UnsupportedFormat

Arrays = dict[str, np.ndarray]


def read(
    content_type: str, query: bytes, body: bytes, profile: ServingProfile, *, max_rows: int
) -> tuple[Arrays, Options]:
    """Read a request whose body is not JSON.

    Args:
        content_type: the header, with its parameters.
        query: what stands behind the question mark, still encoded.
        profile: of the model.

    Returns:
        One array (N, *row) per input of the model, in its type, C-contiguous, aligned, perhaps read-only: rows that
        need no cast are those of the body itself. And the options that were given, as JSON values whose ranges are
        unchecked.

    Raises:
        UnsupportedFormat: `unsupported_media_type`.
        InvalidRequest: as `parse_inputs` does; `invalid_npy`, `invalid_form` for damaged bodies, `object_array` for
            pickles, `invalid_request` for options.
        TooLarge: `too_many_rows`, `too_many_pixels`.
    """
    kind, boundary = media_type(content_type)
    check_type(kind)
    options = from_query(query)
    types = InputTypes(profile, max_rows)
    if kind == _FORM:
        files, more = read_form(body, boundary, types)
        return types.images(files), merged(options, more)
    if not body:
        raise InvalidRequest("empty_inputs", f"the body is empty; {kind} is needed", field="inputs")
    return _READERS[kind](body, types), options


def check_type(kind: str) -> None:
    """Raise UnsupportedFormat for a media type, in small letters and without parameters, that nothing here reads."""
    if kind in _READERS or kind == _FORM:
        return
    found = f"{kind[:100]!r} is not understood" if kind else "the body has no Content-Type"
    needed = f"send JSON with 'Content-Type: application/json'; accepted are {', '.join(ACCEPTED)}"
    raise UnsupportedFormat("unsupported_media_type", f"{found}: {needed}")


def needs_telling(kind: str) -> bool:
    """Whether a media type says nothing of the content: none at all, or what tools send for any file."""
    return kind in _UNTOLD


def told_by_content(body: bytes) -> str | None:
    """The media type of an image or npy file from its first bytes; None for everything else.

    >>> told_by_content(b"\\x89PNG\\r\\n\\x1a\\n"), told_by_content(b"{}")
    ('image/png', None)
    """
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC.items() if body.startswith(magic)), None)


def _image(body: bytes, types: InputTypes) -> Arrays:
    return types.images([body])


_FORM = "multipart/form-data"
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
_READERS: dict[str, Callable[[bytes, InputTypes], Arrays]] = {
    "application/x-npy": read_npy,
    **dict.fromkeys(_IMAGES, _image),
}
#: How files begin. (BMP's two letters begin many texts, too.)
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"\x93NUMPY": "application/x-npy"}
#: A missing type, and what curl and others send for a body of which they know nothing.
_UNTOLD = ("", "application/octet-stream", "application/x-www-form-urlencoded")
#: All media types that a predict request may have.
ACCEPTED = ("application/json", *_READERS, _FORM)
