"""Inspection: an upload is opened for the first time, profiled, and copied for serving or training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlas.contract.options import ModelOptions
from fedlas.contract.profiles import DatasetProfile, ExampleRow, FeatureSpec, ModelProfile, Reading
from fedlas.errors import UnsupportedModel
from worker.documents import JOB_ID, DatasetInspection, InspectDatasetOrder, InspectModelOrder, ModelInspection
from worker.inside.channel import Emit, Files
from worker.inside.job_events import notice_documents

if TYPE_CHECKING:  # datasets are read without PyTorch
    from fedlas.data.dataset import Array, Dataset
    from fedlas.importers import GraphClassifier

_CHECKED_ROWS = 3
#: Numbers of a row that is kept in the profile, as an example: it is read with every list of datasets.
_MAX_EXAMPLE_VALUES = 1000


def inspect_dataset(order: InspectDatasetOrder, files: Files, folder: Path, emit: Emit) -> DatasetInspection:
    """Read the dataset, fix its splits, and write the prepared copy that jobs read."""
    from fedlas.data import ReadingOptions, read_dataset, save_dataset

    dataset = read_dataset(files["dataset"], ReadingOptions(**order.options.model_dump()), scratch=folder)
    save_dataset(dataset, folder / "prepared.npz")
    found = {**dataset.profile(), "format": dataset.format, "example": _example(dataset)}
    profile = DatasetProfile.model_validate(found)
    return DatasetInspection(profile=profile, prepared="prepared.npz")


def _example(dataset: Dataset) -> ExampleRow | None:
    """The first test row, or else the first; None where it is no short row of numbers."""
    numeric = all(array.dtype.kind in "biuf" for array in dataset.inputs.values())
    if not len(dataset) or not numeric or sum(array[0].size for array in dataset.inputs.values()) > _MAX_EXAMPLE_VALUES:
        return None
    judging = dataset.rows("test") if dataset.labelled else dataset.in_file_order()
    at = int(next(iter(judging), 0))
    return ExampleRow(
        row=int(dataset.in_file(np.array([at]))[0]),
        label=dataset.class_names[dataset.targets[at]] if dataset.labelled else None,
        inputs={name: _typed(array[at]) for name, array in dataset.inputs.items()},
    )


def _typed(values: Array) -> Any:
    """Values with seven digits, which a float32 has."""
    if values.dtype.kind != "f":
        return values.tolist()
    short = [float(f"{value:.7g}") if np.isfinite(value) else None for value in values.ravel().tolist()]
    return np.array(short, object).reshape(values.shape).tolist()


def inspect_model(order: InspectModelOrder, files: Files, folder: Path, emit: Emit) -> ModelInspection:
    """Import the network, prove that it computes what the upload computes, and write the copy that is served."""
    from fedlas.calibrators import Identity
    from fedlas.data.alignment import check_preprocessing
    from fedlas.export.graph import write_graph
    from fedlas.importers import check_parity
    from worker.inside.model_loading import open_classifier, preprocessing_of
    from worker.inside.serving_cost import measured

    options, file = order.options, files["model"]
    classifier = open_classifier(file, options)
    names = _class_names(classifier, options.class_names)
    _check_reading(classifier, options)
    profile = model_profile(classifier, names, options)
    if (preprocessing := preprocessing_of(options.preprocessing)) is not None:
        check_preprocessing(preprocessing, profile.inputs)
    served = folder / "served.onnx"
    check_parity(file, classifier)
    rows = classifier.example_rows(_CHECKED_ROWS)
    report = write_graph(classifier, calibrator=Identity(), class_names=names, verify_with=rows).save(served)
    cost = measured(served, classifier.inputs, classifier.lengths, report.cost)
    job_id = classifier.metadata.get("fedlas.job_id", "")
    return ModelInspection(
        profile=profile.model_copy(update={"cost": cost}),
        served=served.name,
        written_by=job_id if re.fullmatch(JOB_ID, job_id) else None,
    )


def _class_names(classifier: GraphClassifier, given: list[str] | None) -> list[str]:
    """The owner's names, else the labels that the graph itself carries, else numbers."""
    if given is not None and len(given) != classifier.num_classes:
        raise UnsupportedModel(
            "class_names_mismatch",
            f"class_names has {len(given)} names ({', '.join(given[:20])}), "
            f"but output {classifier.output_name!r} has {classifier.num_classes} classes",
        )
    return given or list(classifier.class_labels or map(str, range(classifier.num_classes)))


def _check_reading(classifier: GraphClassifier, options: ModelOptions) -> None:
    """Refuse names of columns, and numbers that fill shorter rows, which do not fit the inputs."""
    inputs = {spec.name: spec for spec in classifier.inputs}
    shown = ", ".join(f"{spec.name!r} {list(spec.shape)}" for spec in classifier.inputs)
    if options.columns is not None:
        widths = [spec.shape[1] for spec in classifier.inputs if len(spec.shape) == 2]
        count = len(options.columns)
        if len(inputs) != 1 or not widths or (isinstance(widths[0], int) and widths[0] != count):
            raise UnsupportedModel(
                "columns_mismatch",
                f"columns has {count} names ({', '.join(options.columns[:20])}), for a single input of as many "
                f"columns; the model's inputs are {shown}",
            )
    for name, fill in (options.padding or {}).items():
        spec = inputs.get(name)
        if spec is None or len(spec.shape) < 2 or (np.dtype(spec.dtype).kind in "iu" and int(fill) != fill):
            raise UnsupportedModel(
                "padding_mismatch",
                f"padding fills '{name}' with {fill}, which fits none of the model's inputs: {shown}",
            )


def _names_classes(classifier: GraphClassifier) -> bool:
    """True where the file names its classes: 0, 1, … are the numbers of an encoder, as in scikit-learn's files."""
    return classifier.class_labels not in (None, tuple(map(str, range(classifier.num_classes))))


def model_profile(classifier: GraphClassifier, class_names: list[str], options: ModelOptions) -> ModelProfile:
    from fedlas.importers.onnx.train.adjustments import of_class_labels

    warnings, done, reading = [], [*classifier.adjustments], None
    if options.padding is not None or options.missing is not None:
        reading = Reading(padding=options.padding, missing=options.missing or "reject")
    if classifier.reason:
        warnings.append(f"the model cannot be trained ({classifier.reason}); its confidences can be calibrated")
    if options.class_names is None:
        done.append(of_class_labels(classifier.class_labels if _names_classes(classifier) else None))
    return ModelProfile.model_validate(
        {
            "format": "onnx",
            "preprocessing": options.preprocessing,
            "columns": options.columns,
            "reading": reading,
            "inputs": list(classifier.inputs),
            "output": {"name": classifier.output_name, "kind": classifier.output_kind},
            "task": classifier.task,
            "num_classes": classifier.num_classes,
            "class_names": class_names,
            "class_names_given": options.class_names is not None or _names_classes(classifier),
            "positive_class": options.positive_class,
            "features": FeatureSpec(layer=classifier.feature_layer, dim=classifier.feature_dim),
            "trainable": classifier.trainable,
            "warnings": warnings,
            "adjustments": notice_documents(done),
        }
    )
