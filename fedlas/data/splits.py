"""Splits: read as given, or drawn once; groups are never divided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import SPLITS, Array, Integers
from fedlas.data.labels import as_text
from fedlas.errors import BadDataset

Codes = NDArray[np.int8]
Shares = NDArray[np.float64]
#: Shares of train, calibration, guarantee and test where the splits are drawn; scores train nothing.
DEFAULT_SHARES: Shares = np.array([0.5, 0.2, 0.1, 0.2])
SCORES_SHARES: Shares = np.array([0.0, 0.5, 0.0, 0.5])
#: Without this share of the rows a split that must be there would often get none.
_MIN_SHARE = 0.01
_SUM_TOLERANCE = 1e-6
#: Shares are kept to a thousandth within so many neighbours.
_MAX_PATTERN = 1000

SET_ASIDE = -1
#: So many groups are weighed one by one (0.4 s); of millions the rest falls into place by the law of large numbers.
_WEIGHED_GROUPS = 20_000


def check_shares(shares: Mapping[str, float]) -> Shares:
    """Shares (4,) in the order of `SPLITS`; a split that is not named gets nothing.

    >>> check_shares({"calibration": 0.5, "test": 0.5}).tolist()
    [0.0, 0.5, 0.0, 0.5]

    Raises:
        BadDataset: `bad_split_shares` for an unknown split, a negative share, or shares that do not sum to one; fitting
            and judging need a hundredth each.
    """
    if unknown := [name for name in shares if name not in SPLITS]:
        raise BadDataset("bad_split_shares", f"{unknown[0]!r} is no split; the splits are {', '.join(SPLITS)}")
    if wrong := [name for name, share in shares.items() if not 0 <= share <= 1]:
        raise BadDataset("bad_split_shares", f"the share of {wrong[0]} must lie in 0..1, got {shares[wrong[0]]}")
    if abs(total := math.fsum(shares.values()) - 1) > _SUM_TOLERANCE:
        raise BadDataset("bad_split_shares", f"the shares must sum to 1, these sum to {total + 1:g}")
    for name in ("calibration", "test"):
        if shares.get(name, 0) < _MIN_SHARE:
            raise BadDataset(
                "bad_split_shares", f"the share of {name} must be at least {_MIN_SHARE}, got {shares.get(name, 0):g}"
            )
    return np.array([shares.get(name, 0.0) for name in SPLITS], dtype=np.float64)


def given_splits(name: str, array: Array) -> Codes:
    """Codes (N,) for the words of a split column; BadDataset `unknown_split` for any other word."""
    words = as_text(array)
    distinct, inverse = np.unique(words, return_inverse=True)
    unknown = [str(word) for word in distinct if word not in SPLITS]
    if unknown:
        row = int(np.flatnonzero(words == unknown[0])[0])
        raise BadDataset(
            "unknown_split",
            f"'{name}' may be {', '.join(SPLITS)}; found {', '.join(map(repr, unknown[:10]))} "
            f"(first in row {row}, counted from 0)"
            f"{'; validation rows are calibration here' if {*unknown} & {'val', 'valid', 'validation', 'dev'} else ''}",
        )
    return np.array([SPLITS.index(word) for word in distinct], dtype=np.int8)[inverse.reshape(-1)]


def thinned(splits: Codes, weights: NDArray[np.float64], *, seed: int = 0) -> Codes:
    """Codes (N,) in which only a random sample of the population is left in the splits that promise and judge.

    Sampling weights (N,) tell how many rows of the population each row stands for. Of guarantee and test rows only a
    sample stays, the others get `SET_ASIDE`, so that everything that is proven for samples in which all
    rows count alike holds. Train and calibration rows stay unless they weigh nothing: training draws them by their
    weights, and calibrators are fitted and compared with them.

    >>> codes = thinned(np.full(10_000, 3, np.int8), np.tile([1.0, 4.0], 5_000))
    >>> [round(float((codes[i::2] == 3).mean()), 2) for i in (0, 1)]
    [0.25, 1.0]
    """
    kept = splits.copy()
    kept[weights == 0] = SET_ASIDE
    for code in (SPLITS.index("guarantee"), SPLITS.index("test")):
        rows = np.flatnonzero(splits == code)
        # Rejection sampling: a row stays by the chance weight / (largest weight).
        chances = np.random.default_rng([seed, len(rows)]).random(len(rows))
        kept[rows[chances * weights[rows].max(initial=0) >= weights[rows]]] = SET_ASIDE
    return kept


def check_groups(splits: Codes, groups: Integers, labels: Array) -> None:
    """BadDataset `group_crosses_splits` where a group has rows in two splits; `labels`: its names."""
    order = np.lexsort((splits, groups))
    same_group = groups[order][1:] == groups[order][:-1]
    crossing = np.flatnonzero(same_group & (splits[order][1:] != splits[order][:-1]))
    if len(crossing):
        first, second = order[crossing[0]], order[crossing[0] + 1]
        label = labels[first].decode("utf-8", "replace") if labels.dtype.kind == "S" else labels[first]
        raise BadDataset(
            "group_crosses_splits",
            f"the group '{label}' has row {first} in '{SPLITS[splits[first]]}' and row {second} in "
            f"'{SPLITS[splits[second]]}' (counted from 0); a group may lie in one split only",
        )


def draw_splits(
    targets: Integers,
    *,
    groups: Integers | None = None,
    time: Array | None = None,
    seed: int = 0,
    shares: Shares = DEFAULT_SHARES,
) -> Codes:
    """Codes (N,): shuffled by `seed` and stratified by class, or in order of `time` (latest rows: test)."""
    rng = np.random.default_rng(seed)
    if time is not None:
        return _by_time(time, np.arange(len(targets)) if groups is None else groups, shares)
    if groups is not None:
        return _by_group(targets, groups, rng, shares)
    shuffled, pattern = rng.permutation(len(targets)), _pattern(shares)
    order = shuffled[np.argsort(targets[shuffled], kind="stable")]
    splits = np.empty(len(targets), dtype=np.int8)
    splits[order] = pattern[(np.arange(len(targets)) + rng.integers(len(pattern))) % len(pattern)]
    return splits


def _pattern(shares: Shares) -> Codes:
    """Codes of which any stretch has these shares to within two rows, so in a list sorted by class every class has.

    Each code falls due when those before it have had their time, and the most urgent one goes first, after Tijdeman
    (The chairman assignment problem, Discrete Mathematics 32, 1980).

    >>> _pattern(DEFAULT_SHARES).tolist()
    [0, 1, 0, 3, 0, 2, 0, 1, 3, 0]
    """
    lengths = (n for n in range(1, _MAX_PATTERN) if np.abs(n * shares - np.round(n * shares)).max() < n * 1e-6)
    length = next(lengths, _MAX_PATTERN)
    counts = np.diff(np.round(length * np.cumsum(shares)).astype(int), prepend=0).tolist()
    given, codes = [0] * len(counts), []
    for place in range(length):
        due = [
            (Fraction((given[code] + 1) * length, count), Fraction(given[code] * length, count), code)
            for code, count in enumerate(counts)
            if count and given[code] * length <= place * count
        ]
        codes.append(min(due)[-1])
        given[codes[-1]] += 1
    return np.array(codes, dtype=np.int8)


def _by_time(time: Array, groups: Integers, shares: Shares) -> Codes:
    _, ranks = np.unique(time, return_inverse=True)
    _, members = np.unique(groups, return_inverse=True)
    earliest = np.full(members.max() + 1, len(time))
    np.minimum.at(earliest, members, ranks)
    sizes = np.bincount(members)
    order = np.argsort(earliest, kind="stable")
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    codes = np.empty(len(sizes), dtype=np.int8)
    codes[order] = np.searchsorted(np.cumsum(shares)[:-1] * len(time), middles, side="right")
    return codes[members]


def _by_group(targets: Integers, groups: Integers, rng: np.random.Generator, shares: Shares) -> Codes:
    """Large groups first, each into the split that lacks most rows of the group's classes."""
    _, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    by_group = np.argsort(members, kind="stable")
    drawn = np.flatnonzero(shares)
    missing = shares[drawn, None] * np.bincount(targets)
    codes = np.empty(len(sizes), dtype=np.int8)
    shuffled = rng.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    for group in order[:_WEIGHED_GROUPS]:
        classes, counts = np.unique(targets[by_group[starts[group] : starts[group + 1]]], return_counts=True)
        codes[group] = split = int(np.argmax(missing[:, classes] @ counts))
        missing[split, classes] -= counts
    rest = rng.permutation(order[_WEIGHED_GROUPS:])
    if len(rest):
        room = np.maximum(missing.sum(axis=1), 0)
        middles = (np.cumsum(sizes[rest]) - sizes[rest] / 2) * room.sum() / sizes[rest].sum()
        codes[rest] = np.searchsorted(np.cumsum(room)[:-1], middles, side="right")
    return drawn.astype(np.int8)[codes[members]]
