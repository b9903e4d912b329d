"""The sources of a calibration in this process, and the scores of a model that cannot be written as a file.

Such a model computes its scores itself, on the rows of each split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.conversion import dataset_file
from fedlas.conversion.columns import SPLITS, Array, Rows, as_array, class_name, found_roles, is_tensor, named_inputs
from fedlas.conversion.rows import rows_of
from fedlas.data.reading import ReadingOptions
from fedlas.data.roles import no_label
from fedlas.errors import ConversionError

_BATCH = 512


@dataclass(frozen=True)
class ModelSource:
    """A model, and how it is opened.

    Attributes:
        model: a `torch.nn.Module`, a fitted classifier of scikit-learn, or the path of an ONNX file (safetensors with
            `architecture`).
        class_names: in the order of the outputs; those that the model knows unless they are given.
        features: the submodule whose output is the features that FedLAS reads, of a file the tensor; by default the
            input of the last linear layer.
        output: the output of a file that holds scores, where that is not the only one.
        task: `binary` where a file's single output is a logit.
        architecture: `torchvision/<name>` or `timm/<name>`, where the file holds weights alone.
    """

    model: Any
    class_names: Sequence[str] | None = None
    features: str | None = None
    output: str | None = None
    task: str | None = None
    architecture: str | None = None


@dataclass(frozen=True)
class LabelledRows(ReadingOptions):
    """All rows with labels, and how they are read; the splits are drawn by the seed of the calibration.

    >>> LabelledRows("rows.csv", seen_by_model="no").missing
    'reject'

    Attributes:
        data: anything that `fedlas.conversion.dataset_file` takes: `(X, y)`, a loader, a frame, a path, or a mapping
            of parts by split, `guarantee` among them. Without a column `split` the splits are drawn.
    """

    data: Any


@dataclass(frozen=True, kw_only=True)
class LabelledScores:
    """Scores (N, K) of a model that is not at hand, and labels (N,); either may be a mapping of both by split.

    Attributes:
        logits, probabilities: one of them.
        class_names: in the order of the columns, where labels are words and the scores are no frame.
        split_shares: split -> its share of the rows where they are drawn, instead of a half each.

    Raises:
        ConversionError: `scores_and_labels`.
    """

    logits: Any = None
    probabilities: Any = None
    labels: Any = None
    class_names: Sequence[str] | None = None
    split_shares: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if (self.logits is None) == (self.probabilities is None) or self.labels is None:
            raise ConversionError("scores_and_labels", "give logits= or probabilities=, one of them, with labels=")


def score_rows(kind: str, scores: Any, labels: Any) -> dict[str, Any]:
    """Scores and labels as a mapping of arrays, or of parts by split."""
    if isinstance(scores, Mapping):
        if not isinstance(labels, Mapping) or set(labels) != set(scores):
            raise ConversionError("parts_differ", f"labels must be a mapping of the same splits: {', '.join(scores)}")
        return {split: {kind: score_matrix(scores[split], kind), "label": labels[split]} for split in scores}
    return {kind: score_matrix(scores, kind), "label": labels}


def score_names(scores: Any, labels: Any, class_names: Sequence[str] | None) -> list[str] | None:
    """The names of the columns of scores: those given, or of a frame; None where labels are numbers.

    Raises:
        ConversionError: `class_names_needed` where labels are words and nothing tells which column is which.
    """
    first, words = (next(iter(one.values())) if isinstance(one, Mapping) else one for one in (scores, labels))
    columns = [str(name) for name in getattr(first, "columns", [])]
    named = columns if columns != [str(i) for i in range(len(columns))] else []
    if class_names is not None:
        if named and named != list(map(str, class_names)):
            raise ConversionError(
                "class_names_mismatch", f"class_names are {', '.join(class_names)}, the columns {', '.join(named)}"
            )
        return [str(name) for name in class_names]
    classes = np.unique(as_array(words, "labels"))
    if not named and classes.dtype.kind in "US" and not all(str(word).isdecimal() for word in classes):
        raise ConversionError(
            "class_names_needed",
            f"the labels are words ({', '.join(map(str, classes[:5]))}): give class_names= in the order of the columns",
        )
    return named or None


def score_matrix(scores: Any, kind: str) -> Array:
    """Scores (N, K); of one column, which speaks for the second of two classes, two are made."""
    array = as_array(scores, kind)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and array.dtype.kind in "biuf":
        return np.stack([1 - array if kind == "probabilities" else np.zeros_like(array), array], axis=1)
    return array


def scored_file(source: ModelSource, rows: LabelledRows, folder: Path) -> tuple[Path, Answering, list[str] | None]:
    """A file of scores and labels, how the model answers further rows, and the names of its classes."""
    answering, data = Answering.of(source.model), rows.data
    names = list(source.class_names) if source.class_names is not None else answering.class_names
    parts = data if isinstance(data, Mapping) and data and set(data) <= set(SPLITS) else {"": data}
    scored = {split: _scored(answering, part, rows.roles) for split, part in parts.items() if split != "train"}
    kind = "probabilities" if all(_is_distribution(scores) for scores, _ in scored.values()) else "logits"
    tables = {split: {kind: score_matrix(scores, kind), **columns} for split, (scores, columns) in scored.items()}
    file = dataset_file(tables.get("", tables), folder=folder, class_names=answering.class_names or names)
    return file.path, answering, names


def _scored(answering: Answering, part: Any, roles: Mapping[str, Any] | None) -> tuple[Array, dict[str, Array]]:
    inputs, kept = _split(part, roles or {})
    return answering(inputs), kept


def _split(part: Any, roles: Mapping[str, Any]) -> tuple[Any, dict[str, Array]]:
    """Inputs as the model takes them, and the arrays that have a role, by role."""
    if isinstance(part, tuple | list) and len(part) == 2:
        return part[0], {"label": as_array(part[1], "y")}
    if hasattr(part, "iloc"):
        if "label" not in (columns := found_roles(map(str, part.columns), roles)):
            raise ConversionError("no_label", no_label([*map(str, part.columns)]))
        taken = {role: name for role, name in columns.items() if isinstance(name, str)}
        return part.drop(columns=list(taken.values())), {
            role: as_array(part[name], name) for role, name in taken.items()
        }
    found_rows: Rows = rows_of(part, roles)
    single = {role: found_rows.columns[name] for role, name in found_rows.roles.items() if isinstance(name, str)}
    return found_rows.inputs(), single


def _is_distribution(scores: Array) -> bool:
    if scores.ndim == 1 or scores.shape[1] == 1:
        return bool(((scores >= 0) & (scores <= 1)).all())
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3))


class Answering:
    """A model as a function of rows to scores (N, K)."""

    def __init__(self, scores: Callable[[Any], Array], model: Any, class_names: list[str] | None) -> None:
        self._scores, self.model, self.class_names = scores, model, class_names

    def __call__(self, inputs: Any) -> Array:
        scores = np.asarray(self._scores(inputs))
        if not np.isfinite(scores).all():
            raise ConversionError("non_finite_answers", "the model answers some rows with NaN or infinite scores")
        return scores

    @classmethod
    def of(cls, model: Any) -> Answering:
        """Wrap an estimator's `predict_proba`, or a module's forward pass."""
        if hasattr(model, "predict_proba"):
            classes = getattr(model, "classes_", None)
            names = None if classes is None else [class_name(one) for one in classes]
            return cls(lambda inputs: model.predict_proba(_only(inputs)), model, names)
        return cls(lambda inputs: _forward(model, inputs), model, None)


def _only(inputs: Any) -> Any:
    return next(iter(inputs.values())) if isinstance(inputs, dict) and len(inputs) == 1 else inputs


def _forward(module: Any, inputs: Any) -> Array:
    """The scores of a module in inference, in batches, on the device where it is."""
    import torch

    from fedlas.conversion.modules import TappedModule, arguments, in_inference

    place = next((value for value in module.parameters()), torch.zeros(0))
    if not isinstance(inputs, Mapping):
        inputs = named_inputs(list(inputs) if isinstance(inputs, tuple | list) else [inputs])
    given, by_name = arguments(module, inputs)
    tensors = [value if is_tensor(value) else torch.from_numpy(as_array(value, "x")) for value in given.values()]
    tapped, answers = TappedModule(module, list(given) if by_name else None, None), []
    with in_inference(module), torch.no_grad():
        for start in range(0, len(tensors[0]), _BATCH):
            batch = [value[start : start + _BATCH].to(place.device) for value in tensors]
            batch = [value.to(place.dtype) if value.is_floating_point() else value for value in batch]
            answers.append(tapped(*batch)[0].float().cpu().numpy())
    return np.concatenate(answers)
