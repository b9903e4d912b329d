"""Labels of any kind become class indices and class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fedlas.contract.profiles import Notice
from fedlas.data.dataset import Array, Dataset, Integers
from fedlas.documents import first_names
from fedlas.errors import BadDataset

#: A larger class index is a mistake (an id, a price), not a class.
MAX_CLASSES = 65_536
_MAX_NAME = 1_000


@dataclass(frozen=True)
class Labels:
    """Class indices (N,) int64, the class names, and whether the owner gave the names."""

    targets: Integers
    class_names: list[str]
    given: bool


def read_labels(name: str, array: Array, class_names: Sequence[str] | None = None) -> Labels:
    """Class indices for the label column `name`: integers are indices, text is mapped by sorted name.

    Raises:
        BadDataset: `bad_labels` (empty, not whole, not one per row), `labels_out_of_range`, `one_class`.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise BadDataset(
            "bad_labels", f"'{name}' has shape {array.shape}; one label per row is needed (one-hot: the argmax)"
        )
    by_name = _from_text(name, array, class_names) if array.dtype.kind in "US" else None
    labels = by_name or _from_numbers(name, array, class_names)
    if len(np.unique(labels.targets)) < 2:
        only = labels.class_names[int(labels.targets[0])]
        raise BadDataset(
            "one_class",
            f"all labels in '{name}' are '{only}'; at least two classes are needed (rows that are only to be predicted "
            "are sent with purpose=predict)",
        )
    return labels


def empty_label(name: str, row: int) -> str:
    """The sentence for a row without a label."""
    return (
        f"'{name}' is empty in row {row} (counted from 0): leave out rows without labels, of a csv "
        f'pandas.read_csv("YOUR_FILE").dropna(subset=["{name}"]).to_csv("labelled.csv", index=False)'
    )


def as_text(array: Array) -> Array:
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace")
    return array if array.dtype.kind == "U" else array.astype(np.str_)


def codes(array: Array) -> Integers:
    """A number for every row (N,), equal where the values are: 0, 1, ... in the order of their first row."""
    if array.dtype.kind not in "US":
        _, first, rows = np.unique(array, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[rows.reshape(-1)]
    numbers: Integers = _encoded(array).indices.to_numpy().astype(np.int64)
    pa.default_memory_pool().release_unused()
    return numbers


def _distinct(texts: Array) -> tuple[Array, Integers]:
    """The distinct texts in order, at most `MAX_CLASSES` + 1, and for every row (N,) which of them it has."""
    encoded = _encoded(texts)
    distinct = np.array(encoded.dictionary[: MAX_CLASSES + 1].to_pylist(), dtype=texts.dtype)
    order = np.argsort(distinct)
    places = np.zeros(len(encoded.dictionary), np.int64)
    places[order] = np.arange(len(distinct))
    return distinct[order], places[encoded.indices.to_numpy()]


def _encoded(texts: Array) -> pa.DictionaryArray:
    """Hashed by Arrow, which for ten million texts takes seconds where sorting takes minutes."""
    column = pa.array(texts, pa.large_string() if texts.dtype.kind == "U" else pa.large_binary())
    return (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()


def _from_text(name: str, array: Array, class_names: Sequence[str] | None) -> Labels | None:
    """None where the texts are whole numbers, which mean class indices however they are stored."""
    distinct, inverse = _distinct(array)
    texts = [str(text) for text in as_text(distinct)]
    if "" in texts:
        row = int(np.argmax(inverse == texts.index("")))
        raise BadDataset("bad_labels", empty_label(name, row))
    if len(texts) > MAX_CLASSES:
        raise BadDataset(
            "too_many_classes", f"'{name}' has more than {MAX_CLASSES} different values, too many to be classes"
        )
    if long := next((text for text in texts if len(text) > _MAX_NAME), None):
        raise BadDataset("bad_labels", f"'{name}' has a class name of {len(long)} characters: {long[:60]!r}…")
    if class_names is None:
        return None if all(text.lstrip("-").isdecimal() for text in texts) else Labels(inverse, texts, True)
    places = {text: i for i, text in enumerate(class_names)}
    for i, text in enumerate(texts):
        if text not in places:
            raise BadDataset(
                "bad_labels",
                f"'{name}' is '{text}' in row {int(np.argmax(inverse == i))} (counted from 0), "
                f"which is none of class_names: {', '.join(class_names)}",
            )
    return Labels(np.array([places[text] for text in texts], dtype=np.int64)[inverse], list(class_names), True)


def _from_numbers(name: str, array: Array, class_names: Sequence[str] | None) -> Labels:
    targets = _whole(name, array)
    limit = len(class_names) if class_names is not None else MAX_CLASSES
    outside = np.flatnonzero((targets < 0) | (targets >= limit))
    if len(outside):
        row = int(outside[0])
        raise BadDataset(
            "labels_out_of_range",
            f"'{name}' is {targets[row]} in row {row} (counted from 0); class indices go from 0 to {limit - 1}",
        )
    names = list(class_names) if class_names is not None else [str(i) for i in range(int(targets.max()) + 1)]
    return Labels(targets, names, class_names is not None)


def _whole(name: str, array: Array) -> Integers:
    if array.dtype.kind in "US":
        array = as_text(array).astype(np.float64)
    if array.dtype.kind not in "biuf":
        raise BadDataset("bad_labels", f"'{name}' has type {array.dtype}; numbers or text are needed")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        broken = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
        if len(broken):
            row = int(broken[0])
            if np.isnan(array[row]):
                raise BadDataset("bad_labels", empty_label(name, row))
            raise BadDataset("bad_labels", f"'{name}' is {array[row]} in row {row} (counted from 0); no class index")
        array = np.clip(array, -1, MAX_CLASSES)
    elif array.dtype == np.uint64:
        array = np.minimum(array, np.uint64(MAX_CLASSES))
    return array.astype(np.int64)


_MEANS = {
    "calibration": "what was fitted on these rows has never met them",
    "guarantee": "what was fitted on these rows has never met them",
    "test": "nothing can be said of them",
}
_SHOWN = 5


def missing_classes(dataset: Dataset) -> list[Notice]:
    """`class_not_met`: for classes without any row, and for each split, but the train split, that lacks further ones.

    >>> data = Dataset({}, np.array([0, 1, 0]), ["a", "b"], True, np.array([1, 3, 3], np.int8))
    >>> missing_classes(data)[0].message
    '1 of 2 classes have no calibration row, so what was fitted on these rows has never met them: b.'
    """
    names = dataset.class_names
    met = np.bincount(dataset.targets, minlength=len(names)) > 0
    notices = []
    if not met.all():
        missing = [name for name, has_rows in zip(names, met, strict=True) if not has_rows]
        notices.append(_notice(missing, len(names), None, "what is fitted never meets them, and nothing judges them"))
    for split, means in _MEANS.items():
        here = np.bincount(dataset.targets[dataset.rows(split)], minlength=len(names)) > 0
        missing = [name for name, lacks in zip(names, met & ~here, strict=True) if lacks]
        if missing and here.any():
            notices.append(_notice(missing, len(names), split, means))
    return notices


def _notice(missing: Sequence[str], num_classes: int, split: str | None, means: str) -> Notice:
    listed = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
    rows = "row at all" if split is None else f"{split} row"
    return Notice(
        code="class_not_met",
        message=f"{len(missing)} of {num_classes} classes have no {rows}, so {means}: {listed}.",
        evidence={"split": split, "classes": first_names(missing), "missing": len(missing), "num_classes": num_classes},
    )
