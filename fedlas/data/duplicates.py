"""Rows that occur in more than one split, found by the digest of all their inputs.

Rows that a network was trained on are remembered by digests under a key, and left out wherever they turn up again.

A row is what the network reads: the same numbers in another file, order or type are the same row; labels do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from fedlas.contract.profiles import Notice
from fedlas.data.arrays import MEMORY_BYTES, pieces, read_arrays, write_arrays
from fedlas.data.dataset import MIN_SPLIT_ROWS, SPLITS, Array, Dataset, Integers
from fedlas.data.prepared import ImageColumn, load_dataset, save_dataset
from fedlas.data.splits import SET_ASIDE
from fedlas.errors import BadDataset


def row_digests(arrays: list[Array], rows: Integers | None = None) -> NDArray[np.uint64]:
    """A number for every row (N,), equal where all inputs are, and else by a chance of 2^-64.

    >>> digests = row_digests([np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])])
    >>> (digests[0] == digests).tolist()
    [True, False, True]
    """
    rng = np.random.default_rng(0)
    digests: NDArray[np.uint64] = np.zeros(len(arrays[0]) if rows is None else len(rows), np.uint64)
    for array in arrays:
        width = -(-array[:1].nbytes // 8)
        factors = rng.integers(0, 1 << 63, width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        start = 0
        for piece in pieces(array, rows):
            digests[start : start + len(piece)] += _mixed(piece, width) @ factors
            start += len(piece)
    return digests


def _mixed(piece: Array, width: int) -> NDArray[np.uint64]:
    """The bytes of rows as (N, width) words, each scrambled, so that round numbers differ in their low bits too."""
    content = np.ascontiguousarray(piece).reshape(len(piece), -1).view(np.uint8)
    words = np.zeros((len(piece), 8 * width), np.uint8)
    words[:, : content.shape[1]] = content
    mixed = words.view(np.uint64)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # MurmurHash3's finaliser
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    return mixed


#: Where more of the equal rows differ in their labels, and more rows have no twin, rows repeat by nature, as codes and
#: counts do; and where rows have fewer patterns, of which hardly any would be left to judge the others.
_MIXED = 0.1
_SINGLE = 0.01
_PATTERNS = 0.1
#: A model that is sure gives many rows the same scores: there at most half of the rows may have no twin.
_SINGLE_SCORES = 0.5


def copied_rows(inputs: Mapping[str, Array], targets: Integers, *, scores: bool = False) -> Integers | None:
    """The pattern (N,) of each row, equal for copies; None if there are no copies, or rows repeat by nature.

    >>> copied_rows({"x": np.array([[1.0], [2.0], [1.0]])}, np.array([0, 1, 0])).tolist()
    [0, 1, 0]
    """
    arrays = [_of_images(array) if isinstance(array, ImageColumn) else array for array in inputs.values()]
    _, patterns, counts = np.unique(row_digests(arrays), return_inverse=True, return_counts=True)
    one = np.zeros(len(counts), np.int64)
    one[patterns] = targets  # of any of its rows
    mixed = np.zeros(len(counts), bool)
    mixed[patterns[targets != one[patterns]]] = True
    single, repeated = float((counts == 1).sum() / len(targets)), counts > 1
    if not repeated.any() or len(counts) < _PATTERNS * len(targets) or (scores and single > _SINGLE_SCORES):
        return None
    return None if single > _SINGLE and mixed[repeated].mean() > _MIXED else patterns


def _of_images(images: ImageColumn) -> Array:
    return np.array([int.from_bytes(blake2b(image, digest_size=8).digest()) for image in images], np.uint64)


Digests: TypeAlias = NDArray[np.uint64]
#: The chance that rows drawn like the train rows would repeat as many of them.
_CHANCE = 1e-6


def shared_rows(dataset: Dataset, split: str = "test") -> dict[str, int]:
    """How many rows of `split` have exactly the same inputs as some row of each other split (those that have any).

    >>> inputs = {"x": np.array([[1.0], [2.0], [1.0]])}
    >>> data = Dataset(inputs, np.array([0, 1, 0]), ["a", "b"], True, np.array([0, 0, 3], np.int8))
    >>> shared_rows(data)
    {'train': 1}
    """
    mine = _digests(dataset, split)
    shared = {name: int(np.isin(mine, _digests(dataset, name)).sum()) for name in SPLITS if name != split}
    return {name: count for name, count in shared.items() if count}


def without_copies(dataset: Dataset) -> tuple[Dataset, list[Notice]]:
    """The dataset without the calibration, guarantee and test rows that are copies of train rows, and who they were.

    A network knows its train rows by heart, so copies of them can neither calibrate nor judge. Coarse tables repeat
    rows by nature. There, train rows have as many twins among themselves: a split has copies where its rows are
    repetitions of single train rows more often than train rows are, beyond chance.

    Raises:
        BadDataset: `rows_seen` where fewer than ten rows of a split that calibrates or judges are left.
    """
    contents, counts = np.unique(_digests(dataset, "train"), return_counts=True)
    by_split = {split: _copies(dataset, split, contents, counts) for split in SPLITS[1:] if len(contents)}
    copies = {split: rows for split, rows in by_split.items() if len(rows)}
    if not copies:
        return dataset, []
    said = ", ".join(f"{len(rows):,} of {len(dataset.rows(split)):,} {split} rows" for split, rows in copies.items())
    splits = dataset.splits.copy()
    splits[np.concatenate(list(copies.values()))] = SET_ASIDE
    rest = replace(dataset, splits=splits)
    for split in copies.keys() - {"guarantee"}:
        if (left := len(rest.rows(split))) < MIN_SPLIT_ROWS:
            raise BadDataset(
                "rows_seen",
                f"{said} have exactly the inputs of train rows; {left} {split} rows are left, at least "
                f"{MIN_SPLIT_ROWS} are needed: send {split} rows that are not among the train rows",
            )
    message = (
        f"{said} have exactly the inputs of train rows, far more than chance repeats: they are left out, since the "
        "model may know them by heart. Look for rows that were copied between the splits."
    )
    first = {split: dataset.in_file(rows[:5]).tolist() for split, rows in copies.items()}
    return rest, [
        Notice(
            code="copied_rows",
            message=message,
            evidence={"copies": {k: len(v) for k, v in copies.items()}, "rows": first},
        )
    ]


def _copies(dataset: Dataset, split: str, contents: Digests, counts: NDArray[np.int64]) -> Integers:
    """The rows of a split that repeat single train rows (of `contents`), none where chance explains them."""
    mine = _digests(dataset, split)
    copies = dataset.rows(split)[np.isin(mine, contents[counts == 1])]
    # Two equal train rows repeat one that is single among the others: a pair of n rows tells of n / 2 draws.
    pairs, draws = int((counts == 2).sum()), int(counts.sum()) / 2
    chance = betainc(len(copies), pairs + 1, len(mine) / (len(mine) + draws)) if len(copies) else 1.0
    return copies if chance < _CHANCE else copies[:0]


def _digests(dataset: Dataset, split: str) -> Digests:
    return row_digests(list(dataset.inputs.values()), dataset.rows(split))


Inputs: TypeAlias = Mapping[str, Array]
#: Among a million rows on either side one is taken for another by chance in one of 18 million cases.
_DIGEST_BYTES = 8
#: Fewer rows of a split that has lost some can neither choose nor judge what was trained.
MIN_LEFT = 200


@dataclass(frozen=True)
class SeenRows:
    """A set of rows under a key; who lacks the key cannot learn from the digests whether it holds a given row.

    Attributes:
        digests: of the rows (M,), ascending, each once; there are none to begin with.
    """

    key: bytes
    digests: Digests = field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def of(cls, inputs: Inputs, rows: Integers | None = None, *, key: bytes) -> SeenRows:
        """The rows of a dataset's inputs, in the model's types (`align`); None takes all of them.

        >>> seen = SeenRows.of({"x": np.array([[1.0, 0.0], [2.0, 3.0]])}, key=b"secret")
        >>> seen.contains({"x": np.array([[2.0, 3.0], [3.0, 2.0], [1.0, -0.0]])}).tolist()
        [True, False, True]
        """
        return cls(key, np.unique(_keyed_digests(inputs, rows, key)))

    @classmethod
    def load(cls, path: Path, *, key: bytes) -> SeenRows:
        """Read the file of `save`, which does not hold the key."""
        return cls(key, read_arrays(path)["digests"].astype(np.uint64, copy=False))

    def save(self, path: Path) -> None:
        write_arrays(path, {"digests": self.digests})

    def union(self, other: SeenRows) -> SeenRows:
        """The rows of both, which must be under one key."""
        if self.key != other.key:
            raise ValueError("other must have the same key: its digests mean nothing under this one")
        return SeenRows(self.key, np.union1d(self.digests, other.digests))

    def contains(self, inputs: Inputs, rows: Integers | None = None) -> NDArray[np.bool_]:
        return np.isin(_keyed_digests(inputs, rows, self.key), self.digests)


def without_seen(dataset: Dataset, seen: SeenRows, *, scratch: Path) -> Dataset:
    """The dataset without the calibration, guarantee and test rows that are among `seen`, and a warning that counts.

    Train rows stay, but the network has seen them, whatever the dataset says.

    Args:
        dataset: in the model's inputs and types (`align`).
        scratch: folder for what is left of large arrays, so that they need not be in memory.

    Raises:
        BadDataset: `rows_seen` where fewer than 200 rows of the calibration or the test split are left.
    """
    if not len(seen.digests):
        return dataset
    seen_rows = {
        split: rows[seen.contains(dataset.inputs, rows)] for split in SPLITS if len(rows := dataset.rows(split))
    }
    left_out = {split: rows for split, rows in seen_rows.items() if len(rows) and split != "train"}
    judging = {split: rows for split, rows in left_out.items() if split != "guarantee"}
    kept = {split: len(dataset.rows(split)) - len(rows) for split, rows in judging.items()}
    if any(count < MIN_LEFT for count in kept.values()):
        raise BadDataset(
            "rows_seen",
            f"this model was trained on {_all_counted(dataset, judging)} (found by their inputs); "
            f"{' and '.join(f'{count:,} {split} rows' for split, count in kept.items())} are left, at least "
            f"{MIN_LEFT} are needed. Send rows that it has not been trained on, or create a job for the model that "
            "it was made from",
        )
    if len(seen_rows.get("train", ())) and dataset.seen_by_model == "no":
        said = f"this model was trained on {_counted(dataset, 'train', seen_rows['train'])}: seen_by_model=train_split"
        dataset = replace(dataset, seen_by_model="train_split", warnings=[*dataset.warnings, said])
    if not left_out:
        return dataset
    splits = dataset.splits.copy()
    splits[np.concatenate(list(left_out.values()))] = SET_ASIDE
    said = f"this model was trained on {_all_counted(dataset, left_out)} (found by their inputs): they are left out"
    if len(left_out.get("guarantee", ())) == len(dataset.rows("guarantee")) > 0:
        said += "; no guarantee row is left, so nothing is promised"
    left = replace(dataset, splits=splits, warnings=[*dataset.warnings, said])
    if sum(array.nbytes for array in left.inputs.values()) <= MEMORY_BYTES:
        return left
    # The rows of each split lie side by side again, since copying a split would take much memory.
    save_dataset(left, scratch / "unseen.npz")
    return load_dataset(scratch / "unseen.npz")


def _all_counted(dataset: Dataset, rows: Mapping[str, Integers]) -> str:
    return ", ".join(_counted(dataset, split, some) for split, some in rows.items())


def _counted(dataset: Dataset, split: str, rows: Integers) -> str:
    return f"{len(rows):,} of {len(dataset.rows(split)):,} {split} rows"


def _keyed_digests(inputs: Inputs, rows: Integers | None, key: bytes) -> Digests:
    """A digest of each row (N,), the inputs taken one after another by name."""
    digests = np.zeros(len(next(iter(inputs.values()))) if rows is None else len(rows), np.uint64)
    for _, array in sorted(inputs.items()):
        start = 0
        for piece in pieces(array, rows):
            end = start + len(piece)
            digests[start:end] = _chained(digests[start:end].tobytes(), _plain(piece), key)
            start = end
    return digests


def _chained(before: bytes, rows: Array, key: bytes) -> Digests:
    """Digests of the rows (N, …), each with that of what came before it; zeros that fill up its end do not count."""
    content, size, empty = rows.tobytes(), rows[:1].nbytes, blake2b(digest_size=_DIGEST_BYTES, key=key)
    digests = []
    for i in range(len(rows)):
        state = empty.copy()
        state.update(before[i * _DIGEST_BYTES : (i + 1) * _DIGEST_BYTES])
        state.update(content[i * size : (i + 1) * size].rstrip(b"\0"))
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), np.uint64)


def _plain(piece: Array) -> Array:
    """The numbers with one zero and one NaN, which have several patterns of bits and mean the same to a network."""
    if piece.dtype.kind != "f":
        return piece
    plain: Array = piece + piece.dtype.type(0)
    plain[np.isnan(plain)] = np.nan
    return plain
