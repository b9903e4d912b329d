"""The sources of a calibration in this process, with what has to be known about them: a model, rows, or scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlas.data.reading import ReadingOptions
from fedlas.errors import ConversionError


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
