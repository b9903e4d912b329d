"""Mistakes in the rows, in what is said about them, and models that do not answer; inputs and labels fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.mistakes.answers import accuracy
from benchmarks.mistakes.bases import Base
from benchmarks.mistakes.graphs import deaf, extra_rows, with_unused_input
from benchmarks.mistakes.kinds import Kinds
from benchmarks.mistakes.pair import Pair

ROWS = Kinds()


@ROWS.kind("a class without rows", "class_not_met", remedy=r"no .*row|without|rows")
def _missing_class(base: Base) -> Pair | None:
    if len(base.pair.names) == 2:
        return None
    return base.pair.rows(np.flatnonzero(base.pair.targets != np.bincount(base.pair.targets).argmax()))


@ROWS.kind("conflicting duplicates", "conflicting_duplicates", remedy=r"duplicat|same inputs|sent twice")
def _conflicts(base: Base) -> Pair | None:
    """Three of ten rows come a second time in their split, under another label."""
    count, classes = len(base.pair.targets), len(base.pair.names)
    rng = np.random.default_rng(0)
    again = rng.permutation(count)[: int(0.3 * count)]
    wrong = (base.pair.targets[again] + rng.integers(1, classes, len(again))) % classes
    pair = base.pair.rows(np.concatenate([np.arange(count), again]))
    label = pair.label.copy()
    label[count:] = np.array(base.pair.names)[wrong]
    return replace(pair, label=label)


@ROWS.kind("class_priors far from the rows", "class_shares", remedy=r"prior|share")
def _priors(base: Base) -> Pair | None:
    """The rarest class is said to be 90 % of all."""
    counts = np.bincount(base.pair.targets, minlength=len(base.pair.names))
    rare = int(counts.argmin())
    rest = 0.1 / (len(counts) - 1)
    priors = {name: 0.9 if i == rare else rest for i, name in enumerate(base.pair.names)}
    return replace(base.pair, job_options={"class_priors": priors})


@ROWS.kind("a handful of groups", "few_groups", remedy=r"group")
def _few_groups(base: Base) -> Pair | None:
    """Two groups in each split, as with data of a few machines."""
    place = np.unique(base.pair.split, return_inverse=True)[1]
    half = np.random.default_rng(0).integers(0, 2, len(place))
    roles = {"group": 2 * place + half}
    options = {"roles": {"group": "group"}} if base.pair.images is not None else {}
    return None if options else replace(base.pair, roles=roles)


@ROWS.kind(
    "a model that always answers alike",
    "constant_answers",
    "input_columns",
    "input_scale",
    "constant",
    remedy=r"constant|same|answer",
)
def _constant(base: Base) -> Pair | None:
    names = ("x",) if base.pair.images is not None else tuple(base.pair.inputs)
    return replace(base.pair, model=deaf(base.pair.model, names))


@ROWS.kind("an input that changes no answer", "unused_input", remedy=r"extra|mask")
def _ignored(base: Base) -> Pair | None:
    if base.pair.images is not None:
        return None
    if "mask" in base.pair.inputs:
        return replace(base.pair, model=deaf(base.pair.model, ("mask",)))
    inputs = {**base.pair.inputs, "extra": extra_rows(len(base.pair.targets))}
    return replace(base.pair, model=with_unused_input(base.pair.model), inputs=inputs, columns=None)


@ROWS.kind("expected_accuracy too high", "baseline_mismatch", "expected_accuracy", remedy=r"expected")
def _too_high(base: Base) -> Pair | None:
    found = accuracy(base.pair)
    if found > 0.85:  # what can be expected ends at 1: a model that its owner trained longer
        return None
    return replace(base.pair, job_options={"expected_accuracy": round(min(found + 0.14, 1.0), 3)})


@ROWS.kind("expected_accuracy too low", "baseline_mismatch", "expected_accuracy", remedy=r"expected")
def _too_low(base: Base) -> Pair | None:
    return replace(base.pair, job_options={"expected_accuracy": round(accuracy(base.pair) - 0.15, 3)})
