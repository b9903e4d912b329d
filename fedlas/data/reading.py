"""From a file of unknown content to a Dataset: format, roles, labels, inputs, splits, in that order."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.profiles import Notice
from fedlas.data.arrays import ArrayFactory
from fedlas.data.columns import (
    Columns,
    check_lengths,
    check_single,
    read_groups,
    read_ids,
    read_slice,
    read_time,
    read_weights,
)
from fedlas.data.dataset import MIN_SPLIT_ROWS, SEEN_BY_MODEL, SPLITS, Array, Dataset, Integers
from fedlas.data.duplicates import copied_rows
from fedlas.data.file_format import told_format
from fedlas.data.formats.csv import CsvReader
from fedlas.data.formats.image_folder import FILE_NAME, ImageFolderReader
from fedlas.data.formats.npz import NpzReader
from fedlas.data.formats.parquet import ParquetReader
from fedlas.data.labels import Labels, as_text, read_labels
from fedlas.data.roles import RoleNames, Roles, find_roles, listed, no_label
from fedlas.data.splits import (
    DEFAULT_SHARES,
    Codes,
    Shares,
    check_groups,
    check_shares,
    draw_splits,
    given_splits,
    thinned,
)
from fedlas.documents import adjustment
from fedlas.errors import BadDataset

PURPOSES = ("fit", "predict")
_VALUES = {"seen_by_model": (None, *SEEN_BY_MODEL), "missing": ("reject", "nan"), "purpose": (None, *PURPOSES)}
_TOLERATED = "a batch fails on such rows, or with errors=column they have an error in place of an answer"
_CLASS_NAMES = "class_names"
#: Codes of what is wrong with a column, beside which the names of all are said.
_OF_COLUMNS = ("non_numeric_column", "non_finite", "bad_labels")
#: Fewer copies are kept in one split, too, but make no interval shorter than by a twentieth.
_FEW_COPIES = 0.1
_TOGETHER = "copies are kept in one split, and intervals count them as one"


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options of a dataset's file.

    Attributes:
        format: `npz`, `csv`, `parquet` or `imagefolder`; None tells it from the content.
        roles: role -> column name, over the well-known names (`label`, `split`, `group`, ...).
        seen_by_model: `no` where the model was trained on none of the rows, `train_split` where it may know train rows
            (None means this where splits are given), or `unknown` (None means this where they are drawn).
        split_seed: shuffles the rows where splits are drawn.
        split_shares: split -> its share of the rows where they are drawn, instead of 0.5, 0.2, 0.1 and 0.2.
        missing: `reject` refuses NaN, `nan` lets it through to the model.
        padding: list column of a parquet file -> the number that fills its shorter rows.
        purpose: `fit` needs a label; `predict` takes rows whose label, if there is one, is passed over; None decides by
            whether there is a label. Rows that are only to be predicted are kept whatever they hold.

    Raises:
        ValueError: `seen_by_model`, `missing` or `purpose` is none of its values.
    """

    format: str | None = None
    roles: RoleNames | None = None
    seen_by_model: str | None = None
    split_seed: int = 0
    split_shares: Mapping[str, float] | None = None
    missing: str = "reject"
    padding: Mapping[str, float] | None = None
    purpose: str | None = None

    def __post_init__(self) -> None:
        for name, values in _VALUES.items():
            if (value := getattr(self, name)) not in values:
                raise ValueError(f"{name} must be one of {values}, got {value!r}")


def read_dataset(
    path: str | Path, options: ReadingOptions = ReadingOptions(), *, scratch: Path | None = None
) -> Dataset:
    """Read a dataset file and fix its splits.

    Args:
        scratch: folder for the files of arrays that are large, which must stay as long as the dataset is used; without
            one everything is read into memory.

    Raises:
        BadDataset: with a code of its own for everything that can be wrong with a file.
    """
    roles, padding, purpose = options.roles, options.padding, options.purpose
    shares = None if options.split_shares is None else check_shares(options.split_shares)
    read_as = {"padding": None if padding is None else dict(padding), "missing": options.missing}
    format, names = told_format(path, options.format), list[str]()
    try:
        reader = _reader(path, format, padding, scratch, purpose)
        names_classes = format == "npz" and _CLASS_NAMES in reader.names and _CLASS_NAMES not in (roles or {}).values()
        names = [name for name in reader.names if not names_classes or name != _CLASS_NAMES]
        chosen = find_roles(names, roles, label_needed=purpose == "fit")
        predicts = purpose == "predict" or chosen.label is None
        if predicts and chosen.id is None and FILE_NAME in names and format == "imagefolder":
            chosen = replace(chosen, id=FILE_NAME)
        named = chosen.columns() | ({_CLASS_NAMES} if names_classes else set())
        arrays = ArrayFactory(scratch, allow_nan=options.missing == "nan", broken=[] if predicts else None)
        columns = reader.read(named, arrays)
        if predicts:
            told = _passed_over(chosen, purpose, names, drawn=shares is not None or options.seen_by_model is not None)
            return replace(_to_predict(columns, chosen, format, told, arrays.broken or []), reading=read_as)
        class_names = class_names_of(columns.named.pop(_CLASS_NAMES)) if names_classes else None
        return replace(
            build_dataset(
                columns, chosen, class_names, options.seen_by_model, options.split_seed, format, shares=shares
            ),
            reading=read_as,
        )
    except BadDataset as error:
        if error.code not in _OF_COLUMNS or format not in ("csv", "parquet"):
            raise
        raise BadDataset(error.code, f"{error.message}; the columns are {listed(names)}") from error
    except MemoryError:
        raise BadDataset("too_large", "the arrays do not fit into memory") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise BadDataset("too_large", "an array is larger than a file may be here") from error
        raise


def _reader(
    path: str | Path, format: str, padding: Mapping[str, float] | None, scratch: Path | None, purpose: str | None
) -> NpzReader | CsvReader | ParquetReader | ImageFolderReader:
    if format == "parquet":
        return ParquetReader(path, padding=padding)
    if padding:
        raise BadDataset("bad_padding", f"padding fills the lists of a parquet file; a file of {format} has none")
    if format == "imagefolder":
        return ImageFolderReader(path, scratch=scratch, purpose=purpose)
    return NpzReader(path) if format == "npz" else CsvReader(path)


def build_dataset(
    columns: Columns,
    roles: Roles,
    class_names: list[str] | None,
    seen_by_model: str | None,
    split_seed: int,
    format: str,
    *,
    shares: Shares | None = None,
    trains: bool = True,
) -> Dataset:
    """Columns with their roles as a dataset whose splits are fixed: as they are given, or drawn by `shares` (4,)."""
    named = columns.named
    assert roles.label is not None
    _check_inputs(columns)
    check_lengths({**named, **columns.inputs}, roles.label)
    labels = read_labels(roles.label, named[roles.label], class_names)
    groups = read_groups(roles.group, named[roles.group]) if roles.group is not None else None
    weights = read_weights(roles.weight, named[roles.weight]) if roles.weight is not None else None
    copies = (
        copied_rows(columns.inputs, labels.targets, scores=not trains)
        if roles.split is None and groups is None
        else None
    )
    splits = _splits(named, roles, labels, groups if copies is None else copies, split_seed, shares)
    repeated = 0 if copies is None else len(copies) - len(np.unique(copies))
    told = []
    if repeated > _FEW_COPIES * len(splits):
        groups, told = copies, [f"{repeated:,} of {len(splits):,} rows are copies of others: {_TOGETHER}"]
    thinning: list[str] = []
    if weights is not None and roles.weight is not None:
        splits, thinning = _thinned(splits, weights, roles.weight, split_seed)
    ids, warnings = read_ids(roles.id, named[roles.id]) if roles.id is not None else (None, [])
    seen, more = _provenance(seen_by_model, given=roles.split is not None)
    warnings = [*roles.warnings, *columns.warnings, *warnings, *told, *thinning, *more]
    return Dataset(
        inputs=columns.inputs,
        targets=labels.targets,
        class_names=labels.class_names,
        class_names_given=labels.given,
        splits=splits,
        groups=groups,
        seen_by_model=seen,
        warnings=[*warnings, *_check_splits(splits, drawn=roles.split is None, trains=trains)],
        roles=dict(roles.names()),
        format=format,
        slices={name: read_slice(name, named[name]) for name in roles.slices or ()},
        weights=weights,
        ids=ids,
        drawn=roles.split is None,
        columns=columns.table if len(columns.inputs) == 1 else None,
        adjustments=columns.adjustments,
    )


def _check_inputs(columns: Columns) -> None:
    if not columns.inputs:
        raise BadDataset(
            "no_inputs",
            "there is no array and no numeric column beside the roles; at least one is needed as the model input",
        )


def _to_predict(columns: Columns, roles: Roles, format: str, told: list[Notice], broken: list[str]) -> Dataset:
    """Inputs and the names of their rows; no other role means anything where nothing is fitted or judged."""
    _check_inputs(columns)
    ids, warnings = read_ids(roles.id, columns.named[roles.id]) if roles.id is not None else (None, [])
    named = {} if roles.id is None else {roles.id: columns.named[roles.id]}
    check_lengths({**columns.inputs, **named}, next(iter(columns.inputs)))
    return Dataset(
        inputs=columns.inputs,
        targets=np.empty(0, np.int64),
        class_names=[],
        class_names_given=False,
        splits=np.empty(0, np.int8),
        warnings=[*columns.warnings, *warnings, *(f"{sentence}; {_TOLERATED}" for sentence in broken)],
        roles=dict(roles.names()),
        format=format,
        ids=ids,
        labelled=False,
        columns=columns.table if len(columns.inputs) == 1 else None,
        adjustments=[*columns.adjustments, *told],
    )


def _passed_over(roles: Roles, purpose: str | None, names: Sequence[str], *, drawn: bool) -> list[Notice]:
    told = []
    if purpose is None:
        reason = "no class folders" if names == [FILE_NAME] else no_label(names)
        told.append(adjustment("no_label", f"{reason}: so the rows can only be predicted, as with purpose=predict"))
    ignored = {role: name for role, name in roles.names().items() if role != "id"}
    if ignored:
        shown = ", ".join(f"{role} ({name})" for role, name in ignored.items())
        message = f"not read, since the rows are only to be predicted: {shown}"
        told.append(adjustment("roles_ignored", message, **ignored))
    if drawn:
        message = "split_shares and seen_by_model mean nothing for rows that are only to be predicted"
        told.append(adjustment("options_ignored", message))
    return told


def class_names_of(array: Array) -> list[str]:
    """The names in an array `class_names`; BadDataset `bad_class_names` unless each is there once."""
    if array.ndim != 1:
        raise BadDataset("bad_class_names", f"'class_names' must be a list of names, got shape {array.shape}")
    names = [str(name) for name in as_text(array)]
    if len(set(names)) != len(names):
        raise BadDataset("bad_class_names", f"'class_names' has a name twice: {', '.join(names)}")
    return names


def _splits(
    arrays: Mapping[str, Array], roles: Roles, labels: Labels, groups: Integers | None, seed: int, shares: Shares | None
) -> Codes:
    if roles.split is not None:
        if shares is not None:
            raise BadDataset(
                "bad_split_shares",
                f"'{roles.split}' gives the split of every row, so none is drawn: leave out the column or split_shares",
            )
        check_single("split", arrays[roles.split])
        splits = given_splits(roles.split, arrays[roles.split])
        if groups is not None and roles.group is not None:
            check_groups(splits, groups, arrays[roles.group])
        return splits
    time = read_time(roles.time, arrays[roles.time]) if roles.time is not None else None
    return draw_splits(
        labels.targets, groups=groups, time=time, seed=seed, shares=DEFAULT_SHARES if shares is None else shares
    )


def _thinned(splits: Codes, weights: NDArray[np.float64], name: str, seed: int) -> tuple[Codes, list[str]]:
    """The splits that promise and judge as samples of the population, and a sentence that says what stayed."""
    kept = thinned(splits, weights, seed=seed)
    by_split = {
        split: (int((splits == code).sum()), kept == code) for code, split in enumerate(SPLITS) if split != "train"
    }
    counts = {split: (_as_much_as(split, weights[rows]), all_) for split, (all_, rows) in by_split.items() if all_}
    shown = ", ".join(f"{stay} of {all_} {split} rows" for split, (stay, all_) in counts.items())
    if any(stay < MIN_SPLIT_ROWS <= all_ for split, (stay, all_) in counts.items() if split != "guarantee"):
        raise BadDataset(
            "weights_too_uneven",
            f"by the weights in '{name}' only {shown} are a sample of the population, at least {MIN_SPLIT_ROWS} of "
            "each are needed: the largest weights are too far above the others",
        )
    told = [f"{stay} of {all_} {split} rows stay" for split, (stay, all_) in counts.items() if split != "calibration"]
    if "calibration" in counts:
        told.append("{1} calibration rows count like {0} equal ones".format(*counts["calibration"]))
    sentence = (
        f"by the weights in '{name}' {', '.join(told)}, as a sample of the population; train rows are drawn by them"
    )
    return kept, [sentence] if counts else []


def _as_much_as(split: str, weights: NDArray[np.float64]) -> int:
    """How many rows that count alike these (M,) are worth: all of a sample, of weighted ones fewer (Kish 1965)."""
    if split != "calibration" or not weights.any():
        return len(weights)
    return int(weights.sum() ** 2 / (weights @ weights))


def _provenance(seen_by_model: str | None, *, given: bool) -> tuple[str, list[str]]:
    """Resolved `seen_by_model`, and a sentence where it makes every verdict impossible."""
    if seen_by_model == "train_split" and not given:
        return "unknown", [
            "seen_by_model=train_split was sent without a split column, but the model cannot have been "
            "trained on a split that was drawn here: "
            "send the split of every row, or seen_by_model=no if it saw none"
        ]
    seen = seen_by_model or ("train_split" if given else "unknown")
    if seen != "unknown":
        return seen, []
    ends = "a job needs to know that" if seen_by_model is None else "every job ends undetermined"
    return seen, [
        f"it is unknown which rows the model was trained on, so {ends}: send seen_by_model=no if it saw none of them, "
        "or a split column that marks what it saw as train"
    ]


def _check_splits(splits: Codes, *, drawn: bool, trains: bool) -> list[str]:
    """BadDataset `split_too_small`, or a sentence for every split whose absence limits what a job can do."""
    counts = dict(zip(SPLITS, np.bincount(splits[splits >= 0], minlength=len(SPLITS)).tolist(), strict=True))
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
    if trains and counts["train"] == 0:
        warnings.append("there are no train rows: what a job trains learns from calibration rows alone")
    return warnings
