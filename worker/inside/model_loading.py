"""Model loading: the classifier of a job, and the dataset in the classifier's inputs and classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas.data import Dataset, align, load_dataset
from fedlas.errors import BaselineMismatch
from fedlas.importers import GraphClassifier, load_architecture, load_onnx
from fedlas.preprocessing import Preprocessing
from worker.documents import ModelOptions

Json = dict[str, Any]
Rows = tuple[list[NDArray[Any]], NDArray[np.int64]]

#: How far the uploaded model may miss the accuracy its owner expects before this looks like a wrong label order.
_EXPECTED_WITHIN = 0.05


def open_classifier(file: Path, options: ModelOptions) -> GraphClassifier:
    """The uploaded file as a classifier; the options of its sender say how to understand it."""
    if options.architecture is not None:
        preprocessing = preprocessing_of(options.preprocessing)
        made = () if preprocessing is None else preprocessing.shape
        sizes = tuple(size for size in made if size is not None)
        shape = sizes if len(sizes) == len(made) > 0 else None
        return load_architecture(
            file,
            architecture=options.architecture,
            num_classes=options.num_classes,
            input_shape=shape,
        )
    return load_onnx(file, output=options.output, features=options.features, task=options.task)


def preprocessing_of(given: Mapping[str, Any] | None) -> Preprocessing | None:
    """How image files become rows of the model, if its sender said so."""
    return None if given is None else Preprocessing.parse(given)


def fitting_dataset(file: Path, profile: Json, folder: Path) -> Dataset:
    """The prepared copy, cast to the model's inputs and mapped to its classes; what is made of it lies in `folder`."""
    return align(
        load_dataset(file),
        model_inputs=profile["inputs"],
        num_classes=profile["num_classes"],
        class_names=profile["class_names"],
        class_names_given=profile["class_names_given"],
        preprocessing=preprocessing_of(profile.get("preprocessing")),
        scratch=folder,
    )


def rows_of(dataset: Dataset, split: str) -> Rows:
    """Inputs, in the model's order, and targets of one split."""
    inputs, targets = dataset.select(split)
    return list(inputs.values()), targets


def check_expected_accuracy(logits: NDArray[Any], targets: NDArray[np.int64], expected: float | None) -> None:
    """Compare the uploaded model's accuracy on calibration rows with what its owner expects, if anything.

    Raises:
        BaselineMismatch: it is further below than chance explains: label order or preprocessing is probably wrong.
    """
    if expected is None:
        return
    found = float((logits.argmax(1) == targets).mean())
    if found < expected - _EXPECTED_WITHIN:
        raise BaselineMismatch(
            f"the uploaded model is right on {100 * found:.1f} % of the {len(targets)} calibration rows, but "
            f"{100 * expected:.1f} % was expected: check the order of the class names and the preprocessing"
        )
