"""Debian's package synopses as ids of whole words, padded on the right; it knows no network."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from benchmarks.data.common import Array, Rows, Split
from benchmarks.data.text import read_packages

LENGTH, NUM_WORDS = 16, 4000
PAD, UNKNOWN = 0, 1
_SIZES = (6000, 1000, 1000)  # train, calibration, test


def words(seed: int, *, mask: bool) -> Split:
    """Ids (N, 16) int64, and the mask (N, 16) int64 where it is asked for; 20 classes in no order of their names."""
    packages = read_packages()
    rng = np.random.default_rng(seed)
    texts = [re.findall(r"[a-z0-9+]+", synopsis.lower()) for synopsis in packages.synopses]
    rows = rng.permutation(len(texts))
    parts = np.split(rows, np.cumsum(_SIZES))
    known = Counter(word for row in parts[0] for word in texts[row]).most_common(NUM_WORDS - 2)
    places = {word: i + 2 for i, (word, _) in enumerate(known)}
    ids = np.full((len(texts), LENGTH), PAD, np.int64)
    for row, found in enumerate(texts):
        kept = [places.get(word, UNKNOWN) for word in found[:LENGTH]] or [UNKNOWN]
        ids[row, : len(kept)] = kept
    names = list(rng.permutation(sorted(set(packages.sections))))
    targets = np.array([names.index(section) for section in packages.sections], np.int64)

    def select(at: Array) -> Rows:
        return [ids[at], (ids[at] != PAD).astype(np.int64)][: 1 + mask], targets[at]

    return Split(*(select(part) for part in parts), tuple(map(str, names)), "Debian package lists")
