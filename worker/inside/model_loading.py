"""The opening of a job: its classifier, the dataset in the classifier's inputs and classes, and its journal."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch

from fedlas.calibration import CalibrationOptions
from fedlas.contract.base import JsonObject
from fedlas.contract.options import ModelOptions
from fedlas.contract.profiles import ImagePreprocessing
from fedlas.contract.requests import JobRequest
from fedlas.data import Dataset, align, load_dataset
from fedlas.data.duplicates import SeenRows, without_seen
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.preprocessing import Preprocessing
from fedlas.race.record import FolderJournal
from worker.documents import ChildEvent, JobOrder, SavedCheckpoint
from worker.inside.channel import Emit, Files

#: The prefix of the files that hold what earlier attempts have saved.
CHECKPOINT = "checkpoint."
#: Names of things rather than what they are, and where to tell of the end: they change nothing of what comes out.
_NOT_ASKED = {"webhook", "metadata", "model_id", "dataset_id"}


def open_job(order: JobOrder, files: Files, folder: Path) -> tuple[GraphClassifier, Dataset, CalibrationOptions]:
    """The uploaded network, the dataset fitted to it without rows that it has seen, and what is to be done.

    Arrays that are made lie in `folder`.
    """
    profile, request = order.model.profile, order.request
    classifier = open_classifier(files["model"], order.model.options)
    dataset = align(
        load_dataset(files["dataset"]),
        model_inputs=profile.inputs,
        num_classes=profile.num_classes,
        class_names=profile.class_names if profile.class_names_given else None,
        preprocessing=preprocessing_of(profile.preprocessing),
        columns=profile.columns,
        reading=None if profile.reading is None else profile.reading.model_dump(),
        scratch=folder,
    )
    dataset = without_seen(dataset, seen_rows(order, files), scratch=folder)
    options = CalibrationOptions(
        method=request.method,
        hyperparameters=request.hyperparameters.model_dump(),
        budget=request.budget.minutes,
        max_candidates=request.budget.candidates,
        max_cost_factor=request.max_cost_factor,
        expected_accuracy=request.expected_accuracy,
        accept_warnings=tuple(request.accept_warnings),
        gate=request.gate,
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
    return load_onnx(file, output=options.output, features=options.features, task=options.task, allow_beside=False)


def preprocessing_of(given: ImagePreprocessing | None) -> Preprocessing | None:
    return None if given is None else Preprocessing.parse(given.stored())


def asked(request: JobRequest) -> JsonObject:
    """Fields of a request that, with `digests`, determine the result."""
    return request.model_dump(exclude=_NOT_ASKED)


def digests(order: JobOrder) -> dict[str, str]:
    return {
        "model_sha256": order.model.sha256,
        "dataset_sha256": order.dataset.sha256,
        "prepared_dataset_sha256": order.dataset.prepared_sha256,
    }


def repeat_exactly() -> None:
    """Make a job end with the same bits each time: an accelerator's fastest kernels add up in any order.

    Raises:
        RuntimeError: the job was given a card, and PyTorch finds none.
    """
    if (card := os.environ.get("CUDA_VISIBLE_DEVICES")) and not torch.cuda.is_available():
        raise RuntimeError(f"CUDA error: PyTorch does not find the card {card}, which this job was given")
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)


def journal_of(order: JobOrder, files: Files, folder: Path, emit: Emit) -> FolderJournal | None:
    """Journal of earlier attempts' entries, and a folder for what this one saves and reports.

    None where the order asks for no checkpoints. The list of files says which entries there are.
    """
    if order.checkpoint_seconds is None:
        return None
    known = {name.removeprefix(CHECKPOINT): file for name, file in files.items() if name.startswith(CHECKPOINT)}
    given = {"request": asked(order.request), "profile": order.model.profile.stored(), **digests(order)}
    key = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    return FolderJournal(
        folder / "journal",
        key=key,
        known=known,
        on_saved=lambda name, file: emit(ChildEvent(checkpoint=SavedCheckpoint(name=name, file=file))),
        every_seconds=order.checkpoint_seconds,
    )
