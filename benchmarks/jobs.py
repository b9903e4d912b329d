"""The third stage of the calibration benchmark: jobs by the worker's own functions, and what is served afterwards.

A job over HTTP starts three processes, each of which loads PyTorch anew: most of its seconds where rows are few. Here
`worker.inside` inspects both files and calibrates, from the orders that a child of the worker gets to the ONNX file
that it leaves, and ONNX Runtime answers the hidden rows by that file. `run_scores` calibrates the same rows by their
scores alone, so that no calibrator can read features.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bases import session, uploaded_logits
from benchmarks.data.common import Array
from benchmarks.settings import SETTINGS
from fedlas.contract.options import DatasetOptions, ModelOptions, ScoresOptions
from fedlas.contract.requests import JobRequest
from fedlas.errors import FedLASError
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

Json = dict[str, Any]
#: A setting, a seed and the folder of its base.
Run = tuple[str, int, Path]
#: The section of scores only, and part of the names of their folders.
SCORES = "scores"


@dataclass(frozen=True)
class Order:
    """The options that every job is created with."""

    method: str = "post_hoc"
    minutes: float = 30.0

    def request(self, seed: int) -> Json:
        """The members of a request beside the model and the dataset."""
        return {"method": self.method, "budget": {"minutes": self.minutes}, "seed": seed}

    def folder(self, run: Run) -> Path:
        """Where the answer lies: beside its base, and for other methods than the first in `SETTING-METHOD-SEED`."""
        name, seed, base = run
        return base if self.method == Order.method else base.with_name(f"{name}-{self.method}-{seed}")

    def section(self, name: str) -> str:
        """The section of the tables."""
        section = SETTINGS[name].section
        return section if self.method == Order.method else f"{section}-{self.method}"


class ScoresAlone(Order):
    """No job, but a calibration of scores."""

    def section(self, name: str) -> str:
        return SCORES


def run_jobs(runs: Sequence[Run], order: Order) -> None:
    """Run what is missing, one after the other; a run that fails is printed, written down and left out."""
    for run in _missing(runs, order):
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
            _keep(run, order, partial(calibrated, run, order, Path(scratch)))


def run_scores(runs: Sequence[Run]) -> None:
    """Jobs of these runs by the scores of the uploaded model alone: the section `scores`, in folders of their own."""
    order = ScoresAlone(method=SCORES)
    for run in _missing(runs, order):
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
            _keep(run, order, partial(scores_calibrated, run[2], Path(scratch)))


def _missing(runs: Sequence[Run], order: Order) -> list[Run]:
    """Runs that have no `served.npz` yet."""
    return [run for run in runs if not (order.folder(run) / "served.npz").exists()]


def _keep(run: Run, order: Order, answered: Callable[[], tuple[Json, Json, NDArray[np.float64]]]) -> None:
    """Write down a job's answer, its report and probabilities (N, K) of hidden rows."""
    (name, seed, _), folder = run, order.folder(run)
    folder.mkdir(exist_ok=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    told: Json = {"setting": name, "seed": seed, "title": SETTINGS[name].title, "section": order.section(name)}
    try:
        found, report, served = answered()
    except FedLASError as problem:
        words = f"{type(problem).__name__}: {problem}"
        (folder / "failed.json").write_text(json.dumps(told | {"error": words}, indent=1) + "\n")
        print(f"FAILED {name}, seed {seed}: {words}", flush=True)
        return
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu_began}
    told |= found | {key: round(value, 1) for key, value in seconds.items()}
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (folder / "run.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    unfinished = folder / "served.unfinished.npz"
    np.savez_compressed(unfinished, served=served)
    unfinished.replace(folder / "served.npz")  # last: where it is, the stage has ended
    (folder / "failed.json").unlink(missing_ok=True)
    print(f"job of {name}, seed {seed}: {told['verdict']}, {told['served']}, {told['seconds']:.0f} s", flush=True)


@dataclass(frozen=True)
class WorkerJob:
    """A job run in this process: its seconds without inspection, the served ONNX file, and dataset rows by split."""

    report: Json
    seconds: dict[str, float]
    file: Path
    splits: dict[str, int]
    cost_factor: float | None


def worker_job(upload: Path, dataset: Path, request: Json, scratch: Path) -> WorkerJob:
    """Inspect an ONNX file and a dataset and calibrate, as the service orders it from a worker."""
    as_sent = InspectDatasetOrder(options=DatasetOptions(seen_by_model="train_split"))
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


def calibrated(run: Run, asked: Order, scratch: Path) -> tuple[Json, Json, NDArray[np.float64]]:
    """The job's answer, its report, and (N, K) probabilities of the hidden rows."""
    _, seed, folder = run
    job = worker_job(folder / "model.onnx", folder / "dataset.npz", asked.request(seed), scratch)
    told = job.seconds | told_of(job.report) | {"splits": job.splits}
    return told, job.report, probabilities(job.file, dict(np.load(folder / "hidden_inputs.npz").items()))


def scores_calibrated(folder: Path, scratch: Path) -> tuple[Json, Json, NDArray[np.float64]]:
    """The counterpart of `calibrated` for the scores of calibration and test rows."""
    dataset, rows = np.load(folder / "dataset.npz"), np.load(folder / "logits.npz")
    kept = dataset["split"] != "train"
    inputs = {name: dataset[name][kept] for name in dataset if name not in ("label", "split", "class_names")}
    logits = uploaded_logits((folder / "model.onnx").read_bytes(), list(inputs.values())).astype(np.float32)
    scores = {"logits": logits, "label": dataset["label"][kept], "split": dataset["split"][kept]}
    np.savez(scratch / "scores.npz", class_names=dataset["class_names"], **scores)
    order = ScoresOrder(sha256="0", options=ScoresOptions(method="auto"))
    result = fit_scores(order, {"scores": scratch / "scores.npz"}, scratch, _quiet)
    report: Json = json.loads((scratch / result.report).read_text())
    return told_of(report), report, probabilities(scratch / result.onnx, {"logits": rows["hidden"].astype(np.float32)})


def told_of(report: Json) -> Json:
    """The part of a report that goes into the table of runs."""
    gate = report["gate"]
    failed = [guard for guard in gate["guards"] if not guard["passed"]]
    return {
        "verdict": report["verdict"],
        "serves": report["serves"],
        "significant": gate["significant"],
        "served": gate["finalist"] or "as uploaded",
        "guards_failed": sorted({f"{guard['finalist']}: {guard['name']}" for guard in failed}),
        "vetoes": gate["vetoes"],
    }


def probabilities(file: Path, inputs: dict[str, Array]) -> NDArray[np.float64]:
    """(N, K) of the rows by an ONNX file."""
    return np.asarray(session(file).run(["probabilities"], inputs)[0], np.float64)


def _quiet(event: object) -> None:
    """A worker's child tells its progress; nothing listens here."""
