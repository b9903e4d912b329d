"""The opening of a model's file for a calibration in this process, and the fit of rows to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlas.conversion import ModelFile
from fedlas.data import Dataset, align
from fedlas.data.alignment import InputSpec
from fedlas.errors import UnsupportedModel

if TYPE_CHECKING:
    from fedlas.importers import GraphClassifier


@dataclass(frozen=True)
class OpenedModel:
    """A classifier with the names of its classes and columns, where they are known."""

    classifier: GraphClassifier
    class_names: list[str] | None
    columns: list[str] | None

    def specs(self) -> list[InputSpec]:
        """The inputs, as datasets are fitted to them."""
        return [InputSpec(name=spec.name, dtype=spec.dtype, shape=list(spec.shape)) for spec in self.classifier.inputs]

    def aligned(self, dataset: Dataset) -> Dataset:
        """The dataset in the model's inputs and classes; raises as `fedlas.data.align` does."""
        count = self.classifier.num_classes
        return align(
            dataset,
            model_inputs=self.specs(),
            num_classes=count,
            class_names=self.class_names or [str(i) for i in range(count)],
            class_names_given=self.class_names is not None,
            columns=self.columns,
        )


def opened(file: ModelFile, *, output: str | None, task: str | None) -> OpenedModel:
    """The classifier in a model's file; raises UnsupportedModel as the importers do."""
    from fedlas.importers import load_onnx

    features, task = file.options.get("features"), task or file.options.get("task")
    classifier = load_onnx(file.path, output=output, features=features, task=task)
    columns = json.loads(file.options["columns"]) if "columns" in file.options else None
    return OpenedModel(classifier, _class_names(classifier, file.class_names), columns)


def _class_names(classifier: GraphClassifier, given: list[str] | None) -> list[str] | None:
    """The owner's names, else those in the file, unless they are the numbers 0, 1, … of an encoder."""
    if given is not None and len(given) != classifier.num_classes:
        raise UnsupportedModel(
            "class_names_mismatch", f"{len(given)} class names for a model of {classifier.num_classes} classes"
        )
    labels = classifier.class_labels
    numbered = tuple(map(str, range(classifier.num_classes)))
    return given or (None if labels in (None, numbered) else list(labels or ()))
