"""Mistakes in the order of the classes; inputs are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.mistakes.bases import Base
from benchmarks.mistakes.kinds import Kinds
from benchmarks.mistakes.pair import Pair

LABELS = Kinds()
_ORDER = r"order|mapping|class_names"


@LABELS.kind("names of the model sorted", "label_order", remedy=_ORDER)
def _sorted_names(base: Base) -> Pair | None:
    return None if len(base.pair.names) == 2 else replace(base.pair, model_names=tuple(sorted(base.pair.names)))


@LABELS.kind("two classes exchanged", "label_order", remedy=_ORDER)
def _exchanged(base: Base) -> Pair | None:
    names = list(base.pair.names)
    if len(names) == 2:
        return None
    one, other = np.argsort(-np.bincount(base.pair.targets))[:2]
    names[one], names[other] = names[other], names[one]
    return replace(base.pair, model_names=tuple(names))


@LABELS.kind("binary labels flipped", "label_order", remedy=_ORDER)
def _flipped(base: Base) -> Pair | None:
    return replace(base.pair, model_names=base.pair.names[::-1]) if len(base.pair.names) == 2 else None


@LABELS.kind("binary labels flipped, 0 and 1", "label_order", remedy=_ORDER)
def _flipped_numbers(base: Base) -> Pair | None:
    numbers = replace(base.pair, model_names=None, label=1 - base.pair.targets)
    return numbers if len(base.pair.names) == 2 and base.pair.images is None else None


@LABELS.kind("names in the dataset only, another order", "label_order", "class_mismatch", remedy=_ORDER)
def _only_in_dataset(base: Base) -> Pair | None:
    return replace(base.pair, model_names=None) if base.pair.names != tuple(sorted(base.pair.names)) else None


@LABELS.kind("numbers by an encoder that sorts", "label_order", remedy=_ORDER)
def _other_encoder(base: Base) -> Pair | None:
    rank = np.argsort(np.argsort(base.pair.names))
    if base.pair.images is not None or len(rank) == 2:
        return None
    return replace(base.pair, model_names=None, label=rank[base.pair.targets])


@LABELS.kind("labels start at 1", "labels_from_one", "label_order", "class_mismatch", remedy=r"subtract 1|start at 1")
def _from_one(base: Base) -> Pair | None:
    return None if base.pair.images is not None else replace(base.pair, model_names=None, label=base.pair.targets + 1)


@LABELS.kind(
    "labels start at 1, the last class has no row", "labels_from_one", "label_order", remedy=r"subtract 1|start at 1"
)
def _from_one_without_last(base: Base) -> Pair | None:
    last = len(base.pair.names) - 1
    if base.pair.images is not None or last == 1:
        return None
    pair = base.pair.rows(np.flatnonzero(base.pair.targets != last))
    return replace(pair, model_names=None, label=pair.targets + 1)


@LABELS.kind("labels shifted in a circle", "label_order", "labels_from_one", remedy=_ORDER)
def _circle(base: Base) -> Pair | None:
    count = len(base.pair.names)
    if base.pair.images is not None or count == 2:
        return None
    return replace(base.pair, label=(base.pair.targets + 1) % count)
