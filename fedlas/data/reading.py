"""From a file of unknown content to a Dataset: format, roles, labels, inputs, splits, in that order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.data.csv import read_csv
from fedlas.data.dataset import MIN_SPLIT_ROWS, SEEN_BY_MODEL, SPLITS, Array, Dataset, Integers
from fedlas.data.inputs import check_finite, check_lengths, csv_inputs, npz_inputs
from fedlas.data.labels import Labels, as_text, read_labels
from fedlas.data.npz import read_npz
from fedlas.data.roles import Roles, find_roles
from fedlas.data.sniffing import told_format
from fedlas.data.splits import Codes, check_groups, draw_splits, given_splits
from fedlas.errors import BadDataset


def read_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    roles: Mapping[str, Any] | None = None,
    seen_by_model: str | None = None,
    split_seed: int = 0,
    missing: str = "reject",
) -> Dataset:
    """Read a dataset file and fix its splits.

    Args:
        format: `npz` or `csv`; None tells it from the content.
        roles: role -> column name, over the well-known names (`label`, `split`, `group`, ...).
        seen_by_model: `no`, `train_split` or `unknown`; None means `train_split` where splits are given.
        split_seed: shuffles the rows where splits are drawn.
        missing: `reject` refuses NaN, `nan` lets it through to the model.

    Raises:
        BadDataset: with a code of its own for everything that can be wrong with a file.
        ValueError: `seen_by_model` or `missing` is none of its values.
    """
    if seen_by_model not in (None, *SEEN_BY_MODEL):
        raise ValueError(f"seen_by_model must be one of {SEEN_BY_MODEL}, got {seen_by_model!r}")
    if missing not in ("reject", "nan"):
        raise ValueError(f"missing must be 'reject' or 'nan', got {missing!r}")
    format = told_format(path, format)
    try:
        arrays = read_npz(path) if format == "npz" else read_csv(path)
    except MemoryError as error:
        raise BadDataset("too_large", "the arrays do not fit into memory") from error
    class_names = _class_names(arrays.pop("class_names")) if _names_classes(arrays, format, roles) else None
    chosen = find_roles(arrays, roles)
    check_lengths(arrays, chosen.names["label"])
    labels = read_labels(chosen.names["label"], arrays[chosen.names["label"]], class_names)
    rest = {name: array for name, array in arrays.items() if name not in chosen.columns()}
    inputs = npz_inputs(rest) if format == "npz" else csv_inputs(rest)
    check_finite(rest, allow_nan=missing == "nan")
    for role in ("split", "group", "time"):
        if role in chosen.names:
            _check_single(role, arrays[chosen.names[role]])
    for name in chosen.names.get("slices", []):
        _check_single(f"slice {name!r}", arrays[name])
    groups = _groups(arrays[chosen.names["group"]]) if "group" in chosen.names else None
    splits = _splits(arrays, chosen, labels, groups, split_seed)
    seen, warnings = _provenance(seen_by_model, given="split" in chosen.names)
    warnings += _check_splits(splits, drawn="split" not in chosen.names)
    return Dataset(
        inputs=inputs,
        targets=labels.targets,
        class_names=labels.class_names,
        class_names_given=labels.given,
        splits=splits,
        groups=groups,
        seen_by_model=seen,
        warnings=[*chosen.warnings, *warnings],
        roles=chosen.names,
        format=format,
        slices={name: _slice(arrays[name]) for name in chosen.names.get("slices", [])},
    )


def _check_single(what: str, array: Array) -> None:
    if array.shape[1:]:
        raise BadDataset("bad_role", f"the {what} needs one value per row, got shape {array.shape}")


def _slice(array: Array) -> Array:
    """Numbers as they are, everything else as text."""
    return array if array.dtype.kind in "iufb" else np.array([str(value) for value in as_text(array)])


def _names_classes(arrays: Mapping[str, Array], format: str, roles: Mapping[str, Any] | None) -> bool:
    return format == "npz" and "class_names" in arrays and "class_names" not in (roles or {}).values()


def _class_names(array: Array) -> list[str]:
    if array.ndim != 1:
        raise BadDataset("bad_class_names", f"'class_names' must be a list of names, got shape {array.shape}")
    names = [str(name) for name in as_text(array)]
    if len(set(names)) != len(names):
        raise BadDataset("bad_class_names", f"'class_names' has a name twice: {', '.join(names)}")
    return names


def _groups(array: Array) -> Integers:
    if array.dtype.kind == "f" and np.isnan(array).any():
        row = int(np.flatnonzero(np.isnan(array))[0])
        raise BadDataset("bad_groups", f"the group is empty in row {row} (counted from 0)")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _splits(arrays: Mapping[str, Array], roles: Roles, labels: Labels, groups: Integers | None, seed: int) -> Codes:
    if "split" in roles.names:
        splits = given_splits(roles.names["split"], arrays[roles.names["split"]])
        if groups is not None:
            check_groups(splits, groups, arrays[roles.names["group"]])
        return splits
    time = arrays[roles.names["time"]] if "time" in roles.names else None
    return draw_splits(labels.targets, groups=groups, time=time, seed=seed)


def _provenance(seen_by_model: str | None, *, given: bool) -> tuple[str, list[str]]:
    """What the model has seen, and a sentence where that makes every verdict impossible."""
    if seen_by_model == "train_split" and not given:
        return "unknown", [
            "seen_by_model=train_split was sent without a split column, but the model cannot have been "
            "trained on a split that was drawn here: "
            "send the split of every row, or seen_by_model=no if it saw none"
        ]
    seen = seen_by_model or ("train_split" if given else "unknown")
    if seen != "unknown":
        return seen, []
    return seen, [
        "it is unknown which rows the model was trained on, so every job ends undetermined: send "
        "seen_by_model=no if it saw none of them, or a split column that marks what it saw as train"
    ]


def _check_splits(splits: Codes, *, drawn: bool) -> list[str]:
    """BadDataset `split_too_small`, or a sentence for every split whose absence limits what a job can do."""
    counts = dict(zip(SPLITS, np.bincount(splits, minlength=len(SPLITS)).tolist(), strict=True))
    warnings = []
    for split in ("calibration", "test"):
        if 0 < counts[split] < MIN_SPLIT_ROWS or (drawn and counts[split] == 0):
            raise BadDataset(
                "split_too_small",
                f"the split '{split}' has {counts[split]} rows, at least {MIN_SPLIT_ROWS} are needed "
                f"(of {len(splits)} rows: {', '.join(f'{n} {s}' for s, n in counts.items())})",
            )
        if counts[split] == 0:
            warnings.append(f"there are no {split} rows: no job can run without them")
    if counts["train"] == 0:
        warnings.append("there are no train rows: jobs can only fit a post-hoc calibrator")
    return warnings
