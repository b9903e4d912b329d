"""Good bodies of every format, changed at random: each is read, or refused by an error of the service.

    python -m tests.service.inference.formats.fuzz --count 200000 [--start 0] [--format form]

Every body is a function of its number. What is read is looked at to its last value, so that a pointer that leads
elsewhere is followed. A body that raises anything else, takes long or becomes large is printed with its number.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from service.registry.errors import InvalidRequest, TooLarge
from tests.corpus.images import image, photo
from tests.helpers.predict_bodies import (
    FORM,
    NPY,
    PICTURES,
    TABLE,
    Json,
    file_parts,
    form,
    npy,
    read,
)

Sample = tuple[str, bytes, Json]

_MAX_SECONDS = 2.0
_MAX_BYTES = 3 << 30
_NUMBERS = (0, 1, -1, 2, 3, 7, 8, 16, 255, 1 << 15, 1 << 16, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62, (1 << 63) - 1)


def samples() -> Mapping[str, list[Sample]]:
    """Good bodies by format, with the models that take them."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(5, 4)).astype("f4")
    picture = image(photo(12, 9))
    return {
        "npy": [(NPY, npy(array), TABLE) for array in (table, table.astype(">f8"), np.asfortranarray(table))],
        "form": [
            (FORM, form(*file_parts([picture, picture])), PICTURES),
            (FORM, form(*file_parts([picture]), ('name="top_k"', b"3"), ('name="coverage"', b"0.9")), PICTURES),
            (FORM, form(('name="options"', b'{"top_k":3,"decision":{"costs":[]}}'), *file_parts([picture])), PICTURES),
        ],
    }  # fmt: skip


def changed(body: bytes, chance: random.Random, other: bytes) -> bytes:
    """The body after one to four changes; half of them where descriptions stand, not values."""
    content = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        if len(content) < 16:
            break
        at = chance.randrange(len(content) if chance.random() < 0.5 else min(len(content), 600))
        _CHANGES[chance.randrange(len(_CHANGES))](content, at, chance, other)
    return bytes(content)


def _byte(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    content[at] = chance.choice((0, 1, 0xFF, 0x7F, 0x80, content[at] ^ 1 << chance.randrange(8), chance.randrange(256)))


def _small(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    content[at] = (content[at] + chance.choice((1, -1, 2, -2, 4, 8, 16))) % 256


def _number(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    size, code = chance.choice(((2, "<H"), (4, "<I"), (8, "<Q")))
    at = min(at - at % size, len(content) - size)
    (old,) = struct.unpack_from(code, content, at)
    number = chance.choice((*_NUMBERS, old + 1, old - 1, old * 2, old + 8, -old))
    struct.pack_into(code, content, at, number % (1 << 8 * size))


def _cut(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    del content[at:]


def _drop(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    del content[at : at + chance.choice((1, 4, 8, 8, 16, 64))]


def _repeat(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    content[at:at] = content[at : at + chance.choice((1, 4, 8, 8, 16, 64, 512))]


def _copy(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    size, source = chance.choice((2, 4, 8, 16)), chance.randrange(len(content))
    piece = content[source : source + size]
    content[at : at + len(piece)] = piece


def _graft(content: bytearray, at: int, chance: random.Random, other: bytes) -> None:
    source = chance.randrange(len(other))
    content[at : at + 64] = other[source : source + 64]


_CHANGES: tuple[Callable[[bytearray, int, random.Random, bytes], None], ...] = (
    *(_byte, _byte, _byte, _small, _small, _number, _number, _number, _number),
    *(_cut, _drop, _repeat, _copy, _copy, _graft),
)


def judge(content_type: str, body: bytes, profile: Json) -> str:
    """`read`, or the code of the refusal; raises what is neither."""
    try:
        arrays, _ = read(content_type, body, profile, max_rows=100)
    except (InvalidRequest, TooLarge) as error:
        return error.code if 0 < len(error.message) < 2000 else f"a message of {len(error.message)} characters"
    assert list(arrays) == [spec["name"] for spec in profile["inputs"]]
    for spec, array in zip(profile["inputs"], arrays.values(), strict=True):
        assert array.dtype == spec["dtype"]
        assert array.ndim == len(spec["shape"])
        assert 0 < len(array) <= 100
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert np.isfinite(array.sum(dtype=np.float64))
    return "read"


def main() -> int:
    """Returns the number of bodies that were neither read nor refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--format", choices=(*samples(), "all"), default="all")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, _MAX_BYTES))
    pool = [sample for kind, group in samples().items() if given.format in (kind, "all") for sample in group]
    for content_type, body, profile in pool:
        judge(content_type, body, profile)
    outcomes: dict[str, int] = {}
    failures, slowest = 0, 0.0
    for number in range(given.start, given.start + given.count):
        chance = random.Random(number)
        content_type, body, profile = pool[chance.randrange(len(pool))]
        body = changed(body, chance, pool[chance.randrange(len(pool))][1])
        began = time.thread_time()
        try:
            outcome = judge(content_type, body, profile)
        except Exception as error:
            failures += 1
            outcome = f"FAILED {type(error).__name__}"
            print(f"{number}: {content_type}: {error!r}", flush=True)
        took = time.thread_time() - began
        if took > _MAX_SECONDS:
            failures += 1
            print(f"{number}: {content_type}: {took:.1f} s", flush=True)
        slowest = max(slowest, took)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{given.count} bodies, {failures} failures, slowest {slowest:.3f} s, peak {peak} MiB, {outcomes}")
    return min(failures, 100)


if __name__ == "__main__":
    sys.exit(main())
