"""Model loading: the classifier of a job, and the dataset in the classifier's inputs and classes."""

from __future__ import annotations

from pathlib import Path

from fedlas.calibration import CalibrationOptions
from fedlas.data import Dataset, align, load_dataset
from fedlas.data.casting import InputSpec
from fedlas.data.duplicates import SeenRows, without_seen
from fedlas.importers import GraphClassifier, load_architecture, load_onnx
from fedlas.preprocessing import Preprocessing
from service.registry.documents import ImagePreprocessing, ModelProfile
from worker.documents import JobOrder, ModelOptions
from worker.inside.work_function import Files


def open_job(order: JobOrder, files: Files, folder: Path) -> tuple[GraphClassifier, Dataset, CalibrationOptions]:
    """The uploaded network, the dataset fitted to it without rows that it has seen, and what is to be done.

    Arrays that are made lie in `folder`.
    """
    profile, request = order.model.profile, order.request
    classifier = open_classifier(files["model"], order.model.options)
    dataset = align(
        load_dataset(files["dataset"]),
        model_inputs=input_specs(profile),
        num_classes=profile.num_classes,
        class_names=profile.class_names,
        class_names_given=profile.class_names_given,
        preprocessing=preprocessing_of(profile.preprocessing),
        columns=profile.columns,
        reading=None if profile.reading is None else profile.reading.model_dump(),
        scratch=folder,
    )
    dataset = without_seen(dataset, seen_rows(order, files), scratch=folder)
    options = CalibrationOptions(
        method=request.method,
        hyperparameters=request.hyperparameters.model_dump(),
        budget_seconds=60 * request.budget.minutes,
        max_candidates=request.budget.candidates,
        max_cost_factor=request.max_cost_factor,
        expected_accuracy=request.expected_accuracy,
        accept_warnings=tuple(request.accept_warnings),
        **request.gate.model_dump(),
        evaluations_before=order.looks_before,
        seed=request.seed,
        positive_class=profile.positive_class,
        class_priors=request.class_priors,
    )
    return classifier, dataset, options


def seen_rows(order: JobOrder, files: Files) -> SeenRows:
    """The rows that earlier jobs are known to have trained the network on."""
    key = bytes.fromhex(order.model.row_key)
    return SeenRows.load(files["seen_rows"], key=key) if "seen_rows" in files else SeenRows(key)


def open_classifier(file: Path, options: ModelOptions) -> GraphClassifier:
    """The uploaded file as a classifier; the options of its sender say how to understand it."""
    if options.architecture is None:
        return load_onnx(file, output=options.output, features=options.features, task=options.task, allow_beside=False)
    preprocessing = preprocessing_of(options.preprocessing)
    made = () if preprocessing is None else preprocessing.shape
    sizes = tuple(size for size in made if size is not None)
    return load_architecture(
        file,
        architecture=options.architecture,
        num_classes=options.num_classes,
        input_shape=sizes if len(sizes) == len(made) > 0 else None,
    )


def preprocessing_of(given: ImagePreprocessing | None) -> Preprocessing | None:
    """How image files become rows of the model, if its sender said so."""
    return None if given is None else Preprocessing.parse(given.stored())


def input_specs(profile: ModelProfile) -> list[InputSpec]:
    """The model's inputs, as datasets are fitted to them."""
    return [InputSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in profile.inputs]
