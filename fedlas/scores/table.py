"""A table of scores: one score or several signals of each row, and whether a person said that it is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.conversion.score_columns import is_signal, plain_names
from fedlas.data.arrays import ArrayFactory
from fedlas.data.columns import as_number, check_lengths, check_names
from fedlas.data.dataset import Array
from fedlas.data.file_format import told_format
from fedlas.data.formats.csv import CsvReader, is_number
from fedlas.data.formats.npz import NpzReader
from fedlas.data.formats.parquet import ParquetReader
from fedlas.data.labels import as_text, empty_label
from fedlas.data.roles import RoleNames, find_roles, no_label, no_scores
from fedlas.data.scores import is_of_classes
from fedlas.errors import BadDataset
from fedlas.metrics.statistics import Floats, Ints

MIN_ROWS = 10
MAX_ROWS = 100_000
MAX_SIGNALS = 64
#: Numbers of all signals together: 100,000 rows of 64 took five minutes and 7 GB.
MAX_VALUES = 1_000_000
MAX_SCORE = 1e100
MAX_SLICES = 100
#: JSON is read as a whole.
MAX_JSON_BYTES = 64 << 20
_READERS: dict[str, type[NpzReader] | type[CsvReader] | type[ParquetReader]] = {
    "npz": NpzReader,
    "csv": CsvReader,
    "parquet": ParquetReader,
}
_UNUSED = "These columns were not used: {}. Where rows belong together, name their column as the role group."
_RIGHT = (
    "1",
    "true",
    "right",
    "correct",
    "yes",
    "y",
    "good",
    "pass",
    "passed",
    "match",
    "matched",
    "accept",
    "positive",
)
_WRONG = ("0", "false", "wrong", "incorrect", "no", "n", "bad", "fail", "failed", "mismatch", "unmatched", "reject")
_WRONG_WORDS = (*_WRONG, "negative", "-1")


@dataclass(frozen=True)
class ScoreTable:
    """Rows in the order of the file.

    Attributes:
        signals: name -> values (N,) float64, NaN where one is missing; one called `score`, or several.
        right: (N,) 0 or 1.
        outcomes: the words for 0 and 1.
        groups, weights, time, slices: (N,) each, or None; weights have a mean of 1, slices are text.
    """

    signals: Mapping[str, Floats]
    right: Ints
    outcomes: tuple[str, str]
    groups: Array | None = None
    weights: Floats | None = None
    time: Array | None = None
    slice: str | None = None
    slices: Array | None = None
    warnings: tuple[str, ...] = ()

    @property
    def values(self) -> Floats:
        """The signals as one array (N, S)."""
        return np.stack(list(self.signals.values()), axis=1)


def _by_name(names: Sequence[str], roles: RoleNames | None) -> dict[str, str] | None:
    """Name → name in the file, the score's is `score`; None for the scores of several classes.

    Raises:
        BadDataset: `no_scores`.
    """
    plain = plain_names(names, score := (roles or {}).get("score"))
    if any(map(is_signal, plain)):
        check_names(plain)
        return dict(zip(plain, names, strict=True))
    if score is not None or not any(map(is_of_classes, names)):
        raise BadDataset("no_scores", no_scores(names))
    return None


def read_columns(path: str | Path, roles: RoleNames | None = None) -> dict[str, Array] | None:
    """All columns of a csv, npz, Parquet, JSON or ndjson file by name; None for the scores of several classes.

    Args:
        roles: may name the score.

    Raises:
        BadDataset: the file cannot be read, or holds no scores.
    """
    with Path(path).open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in (b"{", b"["):
        return _from_json(Path(path), roles)
    format = told_format(path)
    if format not in _READERS:
        raise BadDataset("unsupported_format", f"scores are read from csv, ndjson, JSON, Parquet and npz, not {format}")
    reader = _READERS[format](path)
    if (names := _by_name(reader.names, roles)) is None:
        return None
    columns = reader.read(reader.names, ArrayFactory()).named
    return {plain: columns[name] for plain, name in names.items()}


def _from_json(path: Path, roles: RoleNames | None) -> dict[str, Array] | None:
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise BadDataset("too_large", f"{size} bytes of JSON, at most {MAX_JSON_BYTES} are read; Parquet may be larger")
    try:
        text = path.read_text("utf-8-sig")
        content = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise BadDataset("corrupt", f"the file is neither JSON nor a JSON object a line: {str(error)[:200]}") from error
    if isinstance(content, list) and all(isinstance(row, dict) for row in content) and content:
        names = list(dict.fromkeys(name for row in content for name in row))
        content = {name: [row.get(name) for row in content] for name in names}
    if not (isinstance(content, dict) and content and all(isinstance(one, list) for one in content.values())):
        raise BadDataset("corrupt", 'rows are objects, {"score": 8.2, "label": 1}, in a list or one a line, or columns')
    if (by_name := _by_name([*content], roles)) is None:
        return None
    return {plain: _column(plain, content[name]) for plain, name in by_name.items()}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def _column(name: str, values: list[Any]) -> Array:
    """Numbers with NaN for null, or text."""
    if all(value is None or isinstance(value, int | float) for value in values):
        try:
            return np.array([np.nan if value is None else float(value) for value in values])
        except OverflowError as error:
            raise BadDataset("bad_scores", f"'{name}' holds an integer that is too large") from error
    if any(isinstance(value, list | dict) for value in values):
        raise BadDataset("bad_scores", f"'{name}' holds lists or objects; one number or word for each row is needed")
    return np.array(["" if value is None else str(value) for value in values])


def table_of(
    columns: Mapping[str, Array],
    *,
    roles: RoleNames | None = None,
    outcomes: Sequence[str] | None = None,
    slice: str | None = None,
) -> ScoreTable:
    """Check columns by name, and give each its place.

    Args:
        outcomes: the words for wrong and right, in this order, where labels are words that nobody knows.
        slice: the column whose values get thresholds of their own; the column `slice`, if there is one.

    Raises:
        BadDataset: with a code of its own for everything that can be wrong.
    """
    # What a file names the score is known by now.
    given = {role: plain_names([one] if isinstance(one, str) else one) for role, one in (roles or {}).items()}
    given.pop("score", None)
    if "scores" in columns and "score" not in columns:
        columns = {"score" if name == "scores" else name: values for name, values in columns.items()}
    found = find_roles(columns, given, label_needed=False)
    if found.label is None:
        raise BadDataset("no_label", no_label(columns))
    check_lengths(columns, found.label)
    slice = slice or ("slice" if "slice" in columns else next(iter(found.slices or ()), None))
    if slice is not None and slice not in columns:
        raise BadDataset("unknown_role_column", f"slice names '{slice}', but the columns are {', '.join(columns)}")
    taken = {*found.columns(), slice} - {found.split}  # all rows fit and promise
    names = [name for name in columns if name not in taken and is_signal(name)]
    if "score" in names and len(names) > 1:
        raise BadDataset("ambiguous_scores", f"either one score or several signals, found {', '.join(names[:20])}")
    if not names:
        raise BadDataset("no_scores", no_scores(columns))
    if len(names) > MAX_SIGNALS:
        raise BadDataset("bad_columns", f"{len(names)} signals, at most {MAX_SIGNALS} are read")
    rows = len(columns[found.label])
    if not MIN_ROWS <= rows <= MAX_ROWS:
        code = "too_few_rows" if rows < MIN_ROWS else "too_many_rows"
        raise BadDataset(code, f"{rows} rows were sent, expected {MIN_ROWS} to {MAX_ROWS}")
    if rows * len(names) > MAX_VALUES:
        raise BadDataset("too_many_rows", f"{rows} rows of {len(names)} signals, at most {MAX_VALUES} numbers are read")
    right, words = _outcomes(found.label, columns[found.label], outcomes)
    unused = [name for name in columns if name not in taken and name not in names]
    return ScoreTable(
        signals={name: _signal(name, columns[name]) for name in names},
        right=right,
        outcomes=words,
        groups=None if found.group is None else _groups(found.group, columns[found.group]),
        weights=None if found.weight is None else _weights(found.weight, columns[found.weight]),
        time=None if found.time is None else columns[found.time],
        slice=slice,
        slices=None if slice is None else _slices(slice, columns[slice]),
        warnings=(_UNUSED.format(", ".join(unused[:20])),) if unused else (),
    )


def _signal(name: str, values: Array) -> Floats:
    if values.ndim != 1:
        raise BadDataset("bad_shape", f"'{name}' has the shape {values.shape}; one number for each row is needed")
    if values.dtype.kind not in "biuf":
        texts: list[str] = as_text(values).tolist()
        row = next((row for row, text in enumerate(texts) if not is_number(text)), 0)
        found = f"'{name}' is {texts[row][:60]!r} in row {row} (counted from 0), no number"
        raise BadDataset("bad_scores", ": ".join(filter(None, (found, as_number(texts[row])))))
    # float32 is read as it is written: 0.6 and no 0.6000000238.
    short = values.dtype.kind == "f" and values.dtype.itemsize < 8
    numbers = (values.astype(np.str_) if short else values).astype(np.float64)
    if (far := np.abs(numbers) > MAX_SCORE).any():
        row = int(np.flatnonzero(far)[0])
        raise BadDataset("non_finite", f"'{name}' is {numbers[row]:g} in row {row} (counted from 0); leave it empty")
    numbers[np.abs(numbers) < 1 / MAX_SCORE] = 0.0
    return numbers


def _outcomes(name: str, labels: Array, given: Sequence[str] | None) -> tuple[Ints, tuple[str, str]]:
    """0 and 1 for labels, and the words for them."""
    if labels.ndim != 1:
        raise BadDataset("bad_labels", f"'{name}' must hold one label for each row, found the shape {labels.shape}")
    gone = labels == labels.dtype.type() if labels.dtype.kind in "US" else labels != labels  # as NaN is
    if gone.any():
        raise BadDataset("bad_labels", empty_label(name, int(np.flatnonzero(gone)[0])))
    texts = np.char.strip(_words(labels))
    found = sorted(set(texts.tolist()))
    if given is not None:
        if len(given) != 2 or set(found) - set(given):
            needed = f"class_names holds the two labels, the wrong one first; they are {', '.join(found[:10])}"
            raise BadDataset("class_names_mismatch", f"{needed}, and class_names {', '.join(given)}")
        return (texts == given[1]).astype(np.int64), (given[0], given[1])
    folded = np.char.lower(texts)
    is_right, is_wrong = np.isin(folded, _RIGHT), np.isin(folded, _WRONG_WORDS)
    one_outcome = len(set(folded.tolist())) > 1 and (is_right.all() or is_wrong.all())
    if len(found) > 2 or one_outcome or not (is_right | is_wrong).all():
        advice = "for two words say class_names=WRONG,RIGHT, in this order" if len(found) == 2 else "two are needed"
        raise BadDataset("bad_labels", f"'{name}' holds {', '.join(found[:10])}: labels are 0 and 1; {advice}")
    words = [
        next(iter(texts[chosen].tolist()), default) for chosen, default in ((is_wrong, "wrong"), (is_right, "right"))
    ]
    return is_right.astype(np.int64), (words[0], words[1])


def _words(values: Array) -> Array:
    """Values as text, 1.0 as 1, which a client calls it; 1e308 is no integer of 64 bits."""
    whole = values.dtype.kind == "f" and bool(((np.abs(values) < 2**53) & (values == np.round(values))).all())
    return as_text(values.astype(np.int64) if whole else values)


def _groups(name: str, values: Array) -> Array:
    gone = values == "" if values.dtype.kind in "US" else np.isnan(values.astype(np.float64))
    if gone.any():
        row = int(np.flatnonzero(gone)[0])
        raise BadDataset("bad_role", f"'{name}' is missing in row {row} (counted from 0): each row needs its group")
    return values


def _weights(name: str, values: Array) -> Floats:
    numbers = values.astype(np.float64) if values.ndim == 1 and values.dtype.kind in "biuf" else np.full(1, np.nan)
    if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.sum() > 0 and numbers.max() <= MAX_SCORE):
        raise BadDataset("bad_weights", f"'{name}' must hold a number that is not negative for each row, not all zero")
    return np.asarray(numbers / numbers.mean())


def _slices(name: str, values: Array) -> Array:
    texts = _words(values)
    if (count := len(np.unique(texts))) > MAX_SLICES:
        raise BadDataset("bad_columns", f"'{name}' has {count} values, at most {MAX_SLICES} slices are promised for")
    return texts
