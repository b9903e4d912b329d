"""Jobs by the worker's own functions in one process: the same work without the service, its queue and its sandbox.

A job over HTTP starts three processes, each of which loads PyTorch anew: most of its seconds where rows are few. Here
`worker.inside` inspects both files and calibrates, from the orders that a child of the worker gets to the ONNX file
that it leaves, and ONNX Runtime answers the hidden rows by that file. `run_scores` calibrates the same rows by their
scores alone, so that no calibrator can read features.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.bases import uploaded_logits
from benchmarks.data.common import Array
from benchmarks.jobs import Json, Order, Run, keep, missing_jobs, told_of
from benchmarks.races import leave_race, recorded_race
from benchmarks.settings import SETTINGS
from fedlas.contract.options import DatasetOptions, ModelOptions, ScoresOptions
from fedlas.contract.requests import JobRequest
from worker.documents import (
    InspectDatasetOrder,
    InspectModelOrder,
    JobOrder,
    OrderedDataset,
    OrderedModel,
    ScoresOrder,
)
from worker.inside.calibration import calibrate, fit_scores
from worker.inside.inspection import inspect_dataset, inspect_model

#: The section of scores only, and part of the names of their folders.
SCORES = "scores"


def run_in_worker(runs: Sequence[Run], order: Order) -> None:
    """Run what is missing, one after the other; a run that fails is printed, written down and left out."""
    for run in runs:
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as name:
            keep(run, order, partial(calibrated, run, order, Path(name)))


@dataclass(frozen=True)
class WorkerJob:
    """A job run in this process: its seconds without inspection, the served ONNX file, and dataset rows by split."""

    report: Json
    seconds: dict[str, float]
    file: Path
    splits: dict[str, int]
    cost_factor: float | None


def worker_job(upload: Path, dataset: Path, request: Json, scratch: Path, *, seen_by_model: str) -> WorkerJob:
    """Inspect an ONNX file and a dataset and calibrate, as the service orders it from a worker."""
    as_sent = InspectDatasetOrder(options=DatasetOptions(seen_by_model=seen_by_model))
    seen = inspect_dataset(as_sent, {"dataset": dataset}, scratch, _quiet)
    options = ModelOptions(class_names=seen.profile.class_names)
    model = inspect_model(InspectModelOrder(options=options), {"model": upload}, scratch, _quiet)
    order = JobOrder(
        kind="calibrate",
        job_id="job_0",
        request=JobRequest.model_validate({"model_id": "mdl_0", "dataset_id": "ds_0", **request}),
        model=OrderedModel(id="mdl_0", sha256="0", row_key="0" * 32, options=options, profile=model.profile),
        dataset=OrderedDataset(id="ds_0", sha256="0", prepared_sha256="0"),
    )
    began, cpu_began = time.perf_counter(), time.process_time()
    result = calibrate(order, {"model": upload, "dataset": scratch / seen.prepared}, scratch, _quiet)
    seconds = {"job_seconds": time.perf_counter() - began, "job_cpu_seconds": time.process_time() - cpu_began}
    return WorkerJob(
        report=json.loads((scratch / result.report).read_text()),
        seconds={key: round(value, 1) for key, value in seconds.items()},
        file=scratch / (model.served if result.calibrated is None else result.model),
        splits=dict(seen.profile.splits or {}),
        cost_factor=None if result.calibrated is None else result.calibrated.cost_factor,
    )


def calibrated(run: Run, asked: Order, scratch: Path, answers: Path) -> tuple[Json, Json, NDArray[np.float64]]:
    """The job's answer, its report, and (N, K) probabilities of the hidden rows; other finalists' are in `answers`."""
    name, seed, folder = run
    upload, dataset, known = folder / "model.onnx", folder / "dataset.npz", SETTINGS[name].seen_by_model
    with recorded_race() as race:
        job = worker_job(upload, dataset, asked.request(seed), scratch, seen_by_model=known)
    inputs = dict(np.load(folder / "hidden_inputs.npz").items())
    if asked.method != Order.method:
        leave_race(race, list(inputs.values()), answers)
    told = job.seconds | told_of(job.report) | {"through": "worker", "splits": job.splits}
    return told, job.report, probabilities(job.file, inputs)


def run_scores(runs: Sequence[Run]) -> None:
    """Jobs of these runs by the scores of the uploaded model alone: the section `scores`, in folders of their own."""
    order = ScoresAlone(method=SCORES)
    for run in missing_jobs(runs, order):
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
            keep(run, order, partial(scores_calibrated, run[2], Path(scratch)))


class ScoresAlone(Order):
    """No job, but a calibration of scores."""

    def section(self, name: str) -> str:
        return SCORES


def scores_calibrated(folder: Path, scratch: Path, answers: Path) -> tuple[Json, Json, NDArray[np.float64]]:
    """The counterpart of `calibrated` for the scores of calibration and test rows."""
    dataset, rows = np.load(folder / "dataset.npz"), np.load(folder / "logits.npz")
    kept = dataset["split"] != "train"
    inputs = {name: dataset[name][kept] for name in dataset if name not in ("label", "split", "group", "class_names")}
    logits = uploaded_logits((folder / "model.onnx").read_bytes(), list(inputs.values())).astype(np.float32)
    scores = {"logits": logits, "label": dataset["label"][kept], "split": dataset["split"][kept]}
    np.savez(scratch / "scores.npz", class_names=dataset["class_names"], **scores)
    order = ScoresOrder(sha256="0", options=ScoresOptions(method="auto"))
    result = fit_scores(order, {"scores": scratch / "scores.npz"}, scratch, _quiet)
    report: Json = json.loads((scratch / result.report).read_text())
    session = onnxruntime.InferenceSession(scratch / result.onnx, providers=["CPUExecutionProvider"])
    answer = session.run(["probabilities"], {"logits": rows["hidden"].astype(np.float32)})[0]
    return told_of(report) | {"through": SCORES}, report, np.asarray(answer, np.float64)


def probabilities(file: Path, inputs: dict[str, Array]) -> NDArray[np.float64]:
    """(N, K) of the rows by an ONNX file."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], inputs)[0], np.float64)


def _quiet(event: object) -> None:
    """A worker's child tells its progress; nothing listens here."""
