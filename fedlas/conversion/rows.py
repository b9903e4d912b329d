"""Rows: data that a program holds, recognised and brought into arrays by name.

Datasets and loaders of PyTorch are read batch by batch; a frame's columns of numbers stay columns, and its text is
taken where it has a role. Neither library is loaded for what it did not make.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlas.conversion.columns import ROLES, SPLITS, Array, Rows, as_array, found_roles, is_tensor, named_inputs
from fedlas.errors import ConversionError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_EXAMPLE_ROWS = 32
_LOADED_ROWS = 256


def is_loaded(data: object) -> bool:
    """True for a dataset or a loader of PyTorch, which is not loaded for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.utils.data.Dataset | torch.utils.data.DataLoader)


def batches(data: Any, size: int) -> Iterator[Any]:
    """The batches of a loader as they come, of a dataset by a loader of ours."""
    from torch.utils.data import DataLoader

    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=size)
    try:
        yield from loader
    except TypeError as error:
        raise ConversionError(
            "not_numbers", f"the dataset's items are no tensors or numbers ({error}): give it a transform to tensors"
        ) from error
    except RuntimeError as error:
        if "equal size" in str(error):
            raise ConversionError("ragged", "the dataset's items differ in shape: pad or resize them") from error
        raise


def collected(given: Iterator[Any], roles: Mapping[str, Any] | None = None) -> Rows:
    """All batches of a loader as arrays: `(x, y)`, `(x0, x1, …, y)`, or mappings."""
    taken: dict[str, list[Array]] = {}
    mapping = False
    for batch in given:
        mapping = isinstance(batch, Mapping)
        for name, array in _named(batch).items():
            taken.setdefault(name, []).append(array)
    if not taken:
        raise ConversionError("empty", "the loader gives no batch, so there are no rows")
    try:
        columns = {name: np.concatenate(arrays) for name, arrays in taken.items()}
    except ValueError as error:
        raise ConversionError("ragged", f"batches differ in shape ({error}): pad all rows to one length") from error
    return Rows(columns, found_roles(columns, roles or {} if mapping else {}))


def _named(batch: Any) -> dict[str, Array]:
    if isinstance(batch, Mapping):
        return {str(name): as_array(value, str(name)) for name, value in batch.items()}
    if not isinstance(batch, tuple | list):
        return {"x": as_array(batch, "x")}
    if len(batch) < 2:
        return named_inputs(batch)
    *inputs, label = batch
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        named = {str(name): as_array(value, str(name)) for name, value in inputs[0].items()}
    else:
        named = named_inputs(inputs[0] if len(inputs) == 1 and isinstance(inputs[0], tuple | list) else inputs)
    return {**named, "label": np.atleast_1d(as_array(label, "label"))}


def frame_rows(frame: pd.DataFrame, roles: Mapping[str, Any]) -> Rows:
    """The columns of a frame as arrays; raises ConversionError for an empty frame, and columns twice or of no use."""
    if frame.shape[1] == 0 or len(frame) == 0:
        raise ConversionError(
            "empty", f"the frame has {len(frame)} rows and {frame.shape[1]} columns: nothing to write"
        )
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConversionError("duplicate_column", f"these columns appear more than once: {', '.join(twice[:20])}")
    all_roles = found_roles(names, roles)
    taken = {name for value in all_roles.values() for name in ([value] if isinstance(value, str) else value)}
    columns = {
        name: _role(name, frame.iloc[:, i]) if name in taken else _input(name, frame.iloc[:, i])
        for i, name in enumerate(names)
    }
    inputs = [name for name in names if name not in taken]
    notes = [f"{len(inputs)} numeric columns form one input, a row of {len(inputs)} numbers."] if inputs else []
    if missing := [name for name in inputs if columns[name].dtype.kind == "f" and np.isnan(columns[name]).any()]:
        notes.append(f"Values are missing in {', '.join(missing[:10])}: they are taken only with missing='nan'.")
    return Rows(columns, all_roles, table=True, notes=notes)


def _input(name: str, column: pd.Series[Any]) -> Array:
    """A column of numbers; nullable types have NaN where nothing is."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        if column.isna().any() or str(column.dtype) == "Float64":
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(column.to_numpy(dtype=np.dtype(str(column.dtype).lower().replace("boolean", "bool"))))
    row = int(np.argmax(~column.isna().to_numpy()))
    kind = "categories" if isinstance(column.dtype, pd.CategoricalDtype) else f"{column.dtype}"
    raise ConversionError(
        "text_column",
        f"the column '{name}' holds {kind} ({str(column.iloc[row])[:60]!r} in row {row}) and no numbers: encode it, "
        f"for example by pandas.get_dummies, leave it out, or give it a role ({', '.join(ROLES)}), for example "
        f'roles={{"slices": ["{name}"]}}',
    )


def _role(name: str, column: pd.Series[Any]) -> Array:
    """A column with a role: numbers as they are, everything else as text."""
    import pandas as pd

    if column.isna().any():
        row = int(np.argmax(column.isna().to_numpy()))
        raise ConversionError("missing_value", f"the column '{name}' has no value in row {row} (counted from 0)")
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_numeric_dtype(column):
        return _input(name, column)
    if pd.api.types.is_datetime64_any_dtype(column):
        return np.asarray(column.to_numpy(), "datetime64[us]")
    return np.asarray(column.astype(str).to_numpy(), np.str_)


def rows_of(data: object, roles: Mapping[str, Any]) -> Rows:
    """The rows of anything that holds some; raises ConversionError where they are none."""
    if isinstance(data, Mapping) and data and set(data) <= set(SPLITS):
        return _parts({str(name): part for name, part in data.items() if part is not None}, roles)
    rows = _single(data, roles)
    _check_lengths(rows)
    return rows


def first_inputs(data: object, roles: Mapping[str, Any]) -> Any:
    """A batch of the inputs of `data`, of at most 32 rows: a frame of a frame, else arrays by name."""
    if isinstance(data, Mapping) and data and set(data) <= set(SPLITS):
        return first_inputs(next(part for part in data.values() if part is not None), roles)
    if _is_frame(table := _as_frame(data)):
        roles_only = Rows({}, found_roles(map(str, table.columns), roles))
        return table.head(_EXAMPLE_ROWS).drop(
            columns=[name for name in table.columns if str(name) in roles_only.taken()]
        )
    if _is_pair(data) and _is_frame(features := _as_frame(data[0])):  # type: ignore[index]
        return features.head(_EXAMPLE_ROWS)
    if is_loaded(data):
        inputs = collected(islice(batches(data, _EXAMPLE_ROWS), 1), roles).inputs()
    else:
        inputs = _single(data, roles).inputs()
    return {name: array[:_EXAMPLE_ROWS] for name, array in inputs.items()}


def seen_by(data: object) -> str | None:
    """`seen_by_model` of a `fedlas.data.Dataset`; None of anything else."""
    return data.seen_by_model if _is_dataset(data) else None  # type: ignore[attr-defined]


def _single(data: object, roles: Mapping[str, Any]) -> Rows:
    if _is_frame(table := _as_frame(data)):
        return frame_rows(table, roles)
    if _is_dataset(data):
        return _of_dataset(data)
    if is_loaded(data):
        rows = collected(batches(data, _LOADED_ROWS), roles)
        if getattr(data, "drop_last", False):
            rows.notes.append("The loader drops a last batch that is not full: its rows are missing.")
        return rows
    if isinstance(data, Mapping):
        columns = {str(name): as_array(value, str(name)) for name, value in data.items()}
        return Rows(columns, found_roles(columns, roles))
    if _is_pair(data):
        return _of_pair(*data, roles)  # type: ignore[misc, call-arg]
    if hasattr(data, "__array__") or is_tensor(data):
        return Rows({"x": as_array(data, "x")})
    kind = type(data)
    raise ConversionError(
        "unknown_data",
        "rows are a path, (X, y), a mapping of arrays, a pandas frame, a Dataset or DataLoader of PyTorch, or a "
        "mapping {'train': …, 'calibration': …, 'test': …} of these; "
        f"this is a {kind.__module__}.{kind.__name__}",
    )


def _of_pair(inputs: Any, labels: Any, roles: Mapping[str, Any]) -> Rows:
    rows = _single(inputs, {}) if _is_frame(_as_frame(inputs)) or isinstance(inputs, Mapping) else None
    if rows is None:
        several = isinstance(inputs, tuple | list) and len(inputs) > 0 and np.ndim(inputs[0]) > 1
        rows = Rows(named_inputs(list(inputs) if several else [inputs]))
    if labels is None:
        return rows
    rows.roles.pop("label", None)  # a column that is called so is an input here
    name = "label"
    while name in rows.columns:
        name += "_"
    rows.columns[name] = as_array(labels, "y")
    rows.roles = {**rows.roles, **roles, "label": name}
    return rows


def _of_dataset(data: Any) -> Rows:
    keep = np.flatnonzero(np.asarray(data.splits) >= 0) if data.labelled else np.arange(len(data))
    columns = {name: np.asarray(array)[keep] for name, array in data.inputs.items()}
    if not data.labelled:
        return Rows(columns)
    names = np.array(data.class_names)
    roles: dict[str, Any] = {"label": "label", "split": "split"}
    columns["label"] = names[data.targets[keep]] if data.class_names_given else data.targets[keep]
    columns["split"] = np.array(SPLITS)[data.splits[keep]]
    for role, array in {"group": data.groups, "weight": data.weights, "id": data.ids}.items():
        if array is not None:
            columns[role], roles[role] = array[keep], role
    return Rows(columns, roles)


def _parts(parts: Mapping[str, object], roles: Mapping[str, Any]) -> Rows:
    if not parts:
        raise ConversionError("empty", "all parts are None: at least calibration and test rows are needed")
    rows_by_split = {}
    for split, part in parts.items():
        try:
            rows_by_split[split] = _single(part, roles)
            _check_lengths(rows_by_split[split])
        except ConversionError as error:
            raise ConversionError(error.code, f"the {split} part: {error.message}") from error
    first_name, first = next(iter(rows_by_split.items()))
    for split, rows in rows_by_split.items():
        if set(rows.columns) != set(first.columns):
            here, there = ", ".join(list(rows.columns)[:20]), ", ".join(list(first.columns)[:20])
            raise ConversionError("parts_differ", f"the {split} part has {here}; the {first_name} part has {there}")
        if "split" in rows.roles:
            raise ConversionError("split_twice", f"the {split} part has a column '{rows.roles['split']}' of its own")
    columns = {
        name: _joined(name, {split: rows.columns[name] for split, rows in rows_by_split.items()})
        for name in first.columns
    }
    lengths = [len(next(iter(rows.columns.values()))) for rows in rows_by_split.values()]
    split = "split" if "split" not in columns else "split_"
    columns[split] = np.repeat(list(rows_by_split), lengths)
    notes = dict.fromkeys(note for rows in rows_by_split.values() for note in rows.notes)
    return Rows(columns, {**first.roles, "split": split}, first.table, list(notes))


def _joined(name: str, parts: Mapping[str, Array]) -> Array:
    if len({array.shape[1:] for array in parts.values()}) > 1:
        shapes = ", ".join(f"{split} {array.shape}" for split, array in parts.items())
        raise ConversionError("parts_differ", f"'{name}' has another shape in each part: {shapes}")
    return np.concatenate(list(parts.values()))


def _check_lengths(rows: Rows) -> None:
    lengths = {name: len(array) if array.ndim else -1 for name, array in rows.columns.items()}
    if not lengths or 0 in lengths.values():
        raise ConversionError("empty", "there are no rows")
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{name}' {length if length >= 0 else 'a single value'}" for name, length in lengths.items())
        raise ConversionError("length_mismatch", f"arrays of rows differ in length: {shown}")


def _as_frame(data: object) -> Any:
    """Frames of others (polars, Arrow) as one of pandas."""
    return data.to_pandas() if hasattr(data, "to_pandas") and hasattr(data, "columns") else data


def _is_frame(data: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def _is_dataset(data: object) -> bool:
    module = sys.modules.get("fedlas.data.dataset")
    return module is not None and isinstance(data, module.Dataset)


def _is_pair(data: object) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2
