"""Mistakes in token ids; labels are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.data.common import Array
from benchmarks.mistakes.bases import Base
from benchmarks.mistakes.kinds import Kinds
from benchmarks.mistakes.pair import Pair
from benchmarks.mistakes.words import NUM_WORDS, PAD, UNKNOWN

TEXTS = Kinds()
_CODES = ("input_tokens",)


def _made(base: Base, ids: Array, mask: Array | None = None) -> Pair | None:
    inputs = {"ids": ids.astype(np.int64)}
    if "mask" in base.pair.inputs:
        inputs["mask"] = base.pair.inputs["mask"] if mask is None else mask
    return replace(base.pair, inputs=inputs)


@TEXTS.kind("ids of a vocabulary that begins one later", *_CODES, remedy=r"token|vocabular|shift|subtract|ids")
def _shifted(base: Base) -> Pair | None:
    if base.wants != "tokens":
        return None
    ids = base.pair.inputs["ids"]
    return _made(base, np.where(ids == PAD, PAD, np.minimum(ids + 1, NUM_WORDS - 1)))


@TEXTS.kind("ids of another vocabulary", *_CODES, remedy=r"token|vocabular|ids|preprocess")
def _other_vocabulary(base: Base) -> Pair | None:
    if base.wants != "tokens":
        return None
    ids = base.pair.inputs["ids"]
    places = np.concatenate([[PAD, UNKNOWN], 2 + np.random.default_rng(0).permutation(NUM_WORDS - 2)])
    return _made(base, places[ids])


@TEXTS.kind("padding on the left", *_CODES, remedy=r"pad")
def _left(base: Base) -> Pair | None:
    if base.wants != "tokens":
        return None
    ids = base.pair.inputs["ids"]
    order = np.argsort(ids != PAD, axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    return _made(base, ids, (ids != PAD).astype(np.int64))


@TEXTS.kind("another id for padding", *_CODES, remedy=r"pad|token|ids")
def _other_pad(base: Base) -> Pair | None:
    if base.wants != "tokens" or "mask" in base.pair.inputs:
        return None
    ids = base.pair.inputs["ids"]
    return _made(base, np.where(ids == PAD, NUM_WORDS - 1, ids))


@TEXTS.kind("a mask of ones", *_CODES, remedy=r"mask")
def _full_mask(base: Base) -> Pair | None:
    if base.wants != "tokens" or "mask" not in base.pair.inputs:
        return None
    return _made(base, base.pair.inputs["ids"], np.ones_like(base.pair.inputs["mask"]))


@TEXTS.kind("texts cut off after two words", *_CODES, remedy=r"length|short|trunc|cut|pad|token")
def _truncated(base: Base) -> Pair | None:
    if base.wants != "tokens":
        return None
    ids = base.pair.inputs["ids"].copy()
    ids[:, 2:] = PAD
    return _made(base, ids, (ids != PAD).astype(np.int64))
