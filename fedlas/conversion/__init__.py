"""The conversion of what Python programs hold (networks, estimators, frames, loaders) to files that a service takes.

Files are taken as they are, with nothing installed; PyTorch, scikit-learn and pandas are loaded for what they made.

>>> import tempfile
>>> from pathlib import Path
>>> rows, labels = [[0.5, 1.0], [2.0, 3.0], [4.0, 0.0]], [0.0, 1.0, 0.0]
>>> file = dataset_file((rows, labels), folder=Path(tempfile.mkdtemp()))
>>> file.path.name, file.roles
('dataset.npz', {'label': 'label'})
>>> file.notes
['The labels came as float64 that are all whole numbers; they were taken as class indices.']
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlas.errors import ConversionError
from fedlas.extras import require
from fedlas.file_kinds import of_folder

__all__ = ["ConversionError", "DatasetFile", "ModelFile", "dataset_file", "example_of", "model_file"]


@dataclass(frozen=True)
class ModelFile:
    """A model as a file.

    Attributes:
        class_names: in the order of the outputs, where the object or the caller knows them.
        options: the options that go to the service with it, as the query of `POST /v1/models`.
        notes: sentences on what was done.
    """

    path: Path
    class_names: list[str] | None = None
    options: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetFile:
    """Rows as a file.

    Attributes:
        roles: role -> name of the column or array.
        seen_by_model: the caller's value; None leaves it to the reader (`train_split` where splits are given).
        notes: sentences on what was done.
    """

    path: Path
    roles: dict[str, object] = field(default_factory=dict)
    seen_by_model: str | None = None
    notes: list[str] = field(default_factory=list)


def model_file(
    model: object,
    *,
    folder: Path,
    example: Any = None,
    class_names: Sequence[str] | None = None,
    features: str | None = None,
    architecture: str | None = None,
    num_classes: int | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> ModelFile:
    """A model as a file in `folder`; a path is taken as it is.

    Args:
        model: a path, a `torch.nn.Module`, or a fitted classifier or pipeline of scikit-learn. A module is written in
            inference as ONNX with weights inside and free rows, its training mode is restored; the file is proven to
            answer `example` as the object does.
        example: a batch of inputs (`example_of`): an array, several of them, or a mapping by name; needed for modules.
        class_names: in the order of the outputs; an estimator's are its `classes_`.
        features: the submodule whose output is tapped as features, or of a file the tensor.
        architecture: `torchvision/<name>` or `timm/<name>`, whose weights alone the file (safetensors) holds; it is
            written as ONNX for `num_classes` (of the last layer, where None), and for images of the size that
            `preprocessing` makes (the architecture's own, where None).

    Raises:
        ConversionError: the object cannot be written, or its file answers otherwise; the message says what to do.
    """
    names = None if class_names is None else [str(name) for name in class_names]
    if isinstance(model, str | Path):
        path = _file(model, "model")
        if architecture is None:
            return ModelFile(path, names, {} if features is None else {"features": features})
        require("architectures", "torch", "safetensors", "onnx", "onnxruntime", "onnxscript")
        from fedlas.conversion.architectures import write_weights

        return write_weights(
            *(path, Path(folder)),
            architecture=architecture,
            num_classes=None if num_classes is None else int(num_classes),
            image_shape=None if preprocessing is None else _made_shape(preprocessing),
            class_names=names,
        )
    torch = sys.modules.get("torch")  # without it, nothing can be one of its modules
    if torch is not None and isinstance(model, torch.nn.Module):
        require("library", "onnx", "onnxruntime", "onnxscript")
        from fedlas.conversion.modules import write_module

        return write_module(model, Path(folder), example=example, class_names=names, features=features)
    if hasattr(model, "predict_proba") or hasattr(model, "get_params"):
        if features is not None:
            raise ConversionError("no_features", "an estimator has no submodules: leave out `features`")
        require("sklearn", "sklearn", "skl2onnx", "onnxruntime")
        from fedlas.conversion.estimators import write_estimator

        return write_estimator(model, Path(folder), example=example, class_names=names)
    raise ConversionError(
        "unknown_model",
        f"a model is a path, a torch.nn.Module, or a scikit-learn classifier with predict_proba; "
        f"this is a {_type_name(model)}",
    )


def dataset_file(
    data: object,
    *,
    folder: Path,
    roles: Mapping[str, Any] | None = None,
    seen_by_model: str | None = None,
    class_names: Sequence[str] | None = None,
) -> DatasetFile:
    """Rows with labels as a file in `folder`; a path is taken as it is.

    Args:
        data: a path; `(X, y)`; a mapping of arrays (`{"x": …, "label": …, "split": …}`); a frame of pandas, or what has
            `to_pandas`; a `Dataset` or `DataLoader` of PyTorch whose items are `(x, y)` or mappings; a
            `fedlas.data.Dataset`; or a mapping `{"train": part, "calibration": part, "guarantee": part, "test": part}`
            of any of these. An array alone is rows without labels.
        roles: role -> name, where the label is not called `label`, `labels`, `y` or `target`.
        seen_by_model: `no`, `train_split` or `unknown`.
        class_names: of the model; labels that are numbers and among these names are taken as such
            (`ModelFile.class_names` of an estimator whose classes are 3 and 7).

    Raises:
        ConversionError: the rows cannot be written; the message says what to do.
    """
    given = dict(roles or {})
    if isinstance(data, str | Path):
        return DatasetFile(_file(data, "dataset"), given, seen_by_model)
    require("arrays", "numpy")
    from fedlas.conversion.columns import write_rows
    from fedlas.conversion.rows import rows_of, seen_by

    path, file_roles, notes = write_rows(rows_of(data, given), Path(folder), class_names=class_names)
    return DatasetFile(path, file_roles, seen_by_model or seen_by(data), notes)


def example_of(data: object, *, roles: Mapping[str, Any] | None = None) -> Any:
    """One batch of inputs: a mapping of arrays by name, of at most 32 rows; None for a file or nothing.

    A frame gives a frame, since pipelines may choose its columns by name.
    """
    if data is None or isinstance(data, str | Path):
        return None
    require("arrays", "numpy")
    from fedlas.conversion.rows import first_inputs

    return first_inputs(data, roles or {})


def _made_shape(preprocessing: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The shape (C, H, W) of the images that are made, None where a side follows from the image."""
    from fedlas.preprocessing import Preprocessing

    channels, *sizes = Preprocessing.parse(preprocessing).shape
    height, width = (size or 0 for size in sizes)
    return (channels or 0, height, width) if height and width else None


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _file(path: str | Path, what: str) -> Path:
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise ConversionError("is_directory", f"the {what} {of_folder(file)}")
        if not file.exists():
            where = "" if file.is_absolute() else f" in {Path.cwd()}"
            raise ConversionError("no_such_file", f"there is no {what} {str(path)!r}{where}")
        if file.is_file() and file.stat().st_size == 0:
            raise ConversionError("empty_file", f"the {what} {str(path)!r} is an empty file")
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConversionError(
            "unreadable_file", f"the {what} {str(path)!r} cannot be read: {error.strerror}"
        ) from error
    return file
