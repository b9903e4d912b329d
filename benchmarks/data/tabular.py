"""Fourteen tabular classification sets of 1,500 rows and more, all named before one was tried; it knows no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.common import Array, Rows, Split, missing
from benchmarks.data.debian import r_frame

SHARES = (0.5, 0.2, 0.3)
CAPS = (3000, 1000, 3000)  # train, calibration, test


@dataclass(frozen=True)
class Table:
    """A set: what people call it, how its frame is read, and which column is predicted."""

    title: str
    read: Callable[[], Any]
    target: str
    package: str
    drop: tuple[str, ...] = ()


def tabular(name: str, seed: int, quick: bool = False) -> Split:
    """Half, a fifth and three tenths of the rows, at most 3,000, 1,000 and 3,000, drawn without regard to the classes.

    Numbers are standardised by the train rows, categories become one column per level, a missing number becomes the
    train rows' median and gains a column that says so. Inputs are (N, D) float32.
    """
    table = TABLES[name]
    frame = table.read()
    frame = frame[frame[table.target].notna()]
    # The levels of the whole frame: a class that the train rows lack still counts.
    classes, targets = np.unique(frame[table.target].astype(str), return_inverse=True)
    sizes = [min(cap, int(share * len(frame))) for share, cap in zip(SHARES, CAPS, strict=True)]
    if quick:
        sizes = [min(size, 500) for size in sizes]
    rows = np.random.default_rng(seed).permutation(len(frame))[: sum(sizes)]
    train, calibration, test = np.split(rows, np.cumsum(sizes)[:-1])
    inputs = _columns(frame.drop(columns=[table.target, *table.drop]), train)

    def select(at: NDArray[np.intp]) -> Rows:
        return [inputs[at]], targets[at].astype(np.int64)

    base = select(train)
    return Split(base, base, select(calibration), select(test), tuple(map(str, classes)), table.package)


def _columns(frame: Any, train: NDArray[np.intp]) -> NDArray[np.float32]:
    made: list[Array] = []
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind in "ifu":
            made += _number(column.to_numpy(np.float64), train)
        else:
            named = column.astype(object).where(column.notna(), "?")
            made += _levels(named.map(str).to_numpy(str), train)
    return np.column_stack(made).astype(np.float32)


def _number(values: NDArray[np.float64], train: NDArray[np.intp]) -> list[Array]:
    absent = ~np.isfinite(values)
    median = float(np.median(values[train][~absent[train]])) if not absent[train].all() else 0.0
    filled = np.where(absent, median, values)
    scale = float(filled[train].std())
    if scale == 0:
        return []
    # A far outlier of a test row must not decide everything: ten standard deviations are enough.
    scaled = np.clip((filled - filled[train].mean()) / scale, -10, 10)
    return [scaled, absent] if absent[train].any() else [scaled]


def _levels(values: Array, train: NDArray[np.intp]) -> list[Array]:
    levels = np.unique(values[train])
    if len(levels) < 2:
        return []
    return [values == level for level in (levels[1:] if len(levels) == 2 else levels)]


def _digits() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing("scikit-learn", "`pip install scikit-learn` brings it") from None
    return load_digits(as_frame=True).frame


def _r(title: str, package: str, name: str, target: str, drop: tuple[str, ...] = ()) -> Table:
    package = f"r-cran-{package}"
    return Table(title, partial(r_frame, package, name), target, f"Debian {package}", drop)


TABLES: dict[str, Table] = {
    "digits": Table("Digits (64 pixels, 10 classes)", _digits, "target", "scikit-learn"),
    "letter": _r("Letter recognition (26 classes)", "mlbench", "LetterRecognition", "lettr"),
    "satellite": _r("Satellite (6 kinds of ground)", "mlbench", "Satellite", "classes"),
    "shuttle": _r("Shuttle (7 classes, three of them rare)", "mlbench", "Shuttle", "Class"),
    "dna": _r("DNA splice junctions (3 classes)", "mlbench", "DNA", "Class"),
    "spam": _r("Spam (2 classes)", "kernlab", "spam", "type"),
    "income": _r("Income of shoppers (9 brackets)", "kernlab", "income", "INCOME"),
    "caravan": _r("Caravan insurance (2 classes, 6 % positive)", "kernlab", "ticdata", "CARAVAN"),
    "diamonds": _r("Diamonds (5 grades of cut)", "ggplot2", "diamonds", "cut"),
    "cells": _r("Cell segmentation (2 classes)", "modeldata", "cells", "class", ("case",)),
    "churn": _r("Telephone churn (2 classes, 14 % positive)", "modeldata", "mlc_churn", "churn", ("state",)),
    "credit": _r("Credit status (2 classes)", "modeldata", "credit_data", "Status"),
    "hpc": _r("Compute jobs (4 classes of run time)", "modeldata", "hpc_data", "class"),
    "poverty": _r("World values survey (3 opinions)", "cardata", "WVS", "poverty"),
}
