"""Good bodies of every format, changed at random, are read or refused: none crashes, raises anything else or grows."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from service.registry.errors import InvalidRequest, TooLarge
from tests.corpus.images import image, photo
from tests.helpers.predict_bodies import FORM, NPY, PICTURES, TABLE, Json, file_parts, form, npy, read

_NUM_BODIES = 2000
_MAX_SECONDS = 2.0
_NUMBERS = (0, 1, -1, 2, 3, 7, 8, 16, 255, 1 << 15, 1 << 16, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62, (1 << 63) - 1)
_KINDS = ("byte", "byte", "number", "number", "small", "cut", "drop", "repeat", "copy", "graft")
_FLOATS = np.random.default_rng(0).normal(size=(5, 4)).astype("f4")
_PICTURE = image(photo(12, 9))
GOOD: list[tuple[str, bytes, Json]] = [
    *((NPY, npy(array), TABLE) for array in (_FLOATS, _FLOATS.astype(">f8"), np.asfortranarray(_FLOATS))),
    (FORM, form(*file_parts([_PICTURE, _PICTURE])), PICTURES),
    (FORM, form(*file_parts([_PICTURE]), ('name="top_k"', b"3"), ('name="coverage"', b"0.9")), PICTURES),
    (FORM, form(('name="options"', b'{"top_k":3,"decision":{"costs":[]}}'), *file_parts([_PICTURE])), PICTURES),
]


def changed(body: bytes, chance: random.Random, other: bytes) -> bytes:
    """The body after one to four changes; half of them where descriptions stand, not values."""
    content = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        if len(content) < 16:
            break
        at = chance.randrange(len(content) if chance.random() < 0.5 else min(len(content), 600))
        size, source = chance.choice((1, 2, 4, 8, 8, 16, 64, 512)), chance.randrange(len(content))
        match chance.choice(_KINDS):
            case "byte":
                content[at] = chance.choice((0, 1, 0xFF, 0x7F, 0x80, content[at] ^ 1 << chance.randrange(8)))
            case "small":
                content[at] = (content[at] + chance.choice((1, -1, 2, -2, 4, 8, 16))) % 256
            case "number":
                width = chance.choice((2, 4, 8))
                at = min(at - at % width, len(content) - width)
                old = int.from_bytes(content[at : at + width], "little")
                number = chance.choice((*_NUMBERS, old + 1, old - 1, old * 2, old + 8, -old))
                content[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
            case "cut":
                del content[at:]
            case "drop":
                del content[at : at + size]
            case "repeat":
                content[at:at] = content[at : at + size]
            case "copy":
                content[at : at + size] = content[source : source + size]
            case "graft":
                source = chance.randrange(len(other))
                content[at : at + 64] = other[source : source + 64]
    return bytes(content)


@pytest.mark.filterwarnings("error")
def test_changed_bodies() -> None:
    """Each is a function of its number; what is read is looked at to its last value."""
    outcomes = set()
    for number in range(_NUM_BODIES):
        chance = random.Random(number)
        content_type, body, profile = chance.choice(GOOD)
        body = changed(body, chance, chance.choice(GOOD)[1])
        began, refusal, arrays = time.thread_time(), None, {}
        try:
            arrays, _ = read(content_type, body, profile, max_rows=100)
        except (InvalidRequest, TooLarge) as error:
            refusal = error
        assert time.thread_time() - began < _MAX_SECONDS, number
        if refusal is not None:
            assert 0 < len(refusal.message) < 2000, number
            outcomes.add(refusal.code)
            continue
        assert list(arrays) == [spec["name"] for spec in profile["inputs"]]
        for spec, array in zip(profile["inputs"], arrays.values(), strict=True):
            assert (array.dtype, array.ndim) == (spec["dtype"], len(spec["shape"]))
            assert 0 < len(array) <= 100
            assert array.flags.c_contiguous
            assert array.flags.aligned
            assert np.isfinite(array.sum(dtype=np.float64)), number
        outcomes.add("read")
    assert {"read", "invalid_npy", "invalid_form", "bad_image"} <= outcomes
