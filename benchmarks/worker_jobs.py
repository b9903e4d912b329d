"""Jobs by the worker's own functions in one process: the same work without the service, its queue and its sandbox.

A job over HTTP starts three processes, each of which loads PyTorch anew: most of its seconds where rows are few. Here
`worker.inside` inspects both files and calibrates, from the orders that a child of the worker gets to the ONNX file
that it leaves, and ONNX Runtime answers the hidden rows by that file. `run_scores` calibrates the same rows by their
scores alone, so that no calibrator can read features.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.bases import uploaded_logits
from benchmarks.jobs import Json, Run, keep, told_of
from service.registry.contract import JobRequest
from worker.documents import (
    CalibrateOrder,
    DatasetOptions,
    InspectDatasetOrder,
    InspectModelOrder,
    ModelOptions,
    OrderedDataset,
    OrderedModel,
    ScoresOptions,
    ScoresOrder,
)
from worker.inside.calibration import calibrate, fit_scores
from worker.inside.inspection import inspect_dataset, inspect_model

#: What a folder of scores only is called, beside that of its run: `SETTING-scores-SEED`.
SCORES = "scores"


def run_in_worker(runs: Sequence[Run], *, method: str) -> None:
    """Run what is missing, one after the other; a run that fails is printed, written down and left out."""
    for run in runs:
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as name:
            keep(run, lambda run=run, name=name: _calibrated(run, Path(name), method))  # type: ignore[misc]


def _calibrated(run: Run, scratch: Path, method: str) -> tuple[Json, Json, NDArray[np.float64]]:
    """What the job said, its report, and (N, K) probabilities of the hidden rows by the file that it left."""
    _, seed, folder = run
    upload, dataset = folder / "model.onnx", folder / "dataset.npz"
    seen = inspect_dataset(InspectDatasetOrder(options=DatasetOptions()), {"dataset": dataset}, scratch, _quiet)
    options = ModelOptions(class_names=seen.profile.class_names)
    model = inspect_model(InspectModelOrder(options=options), {"model": upload}, scratch, _quiet)
    order = CalibrateOrder(
        job_id="job_0",
        request=JobRequest.model_validate({"model_id": "mdl_0", "dataset_id": "ds_0", "method": method, "seed": seed}),
        model=OrderedModel(id="mdl_0", sha256="0", options=options, profile=model.profile),
        dataset=OrderedDataset(id="ds_0", sha256="0", prepared_sha256="0"),
    )
    result = calibrate(order, {"model": upload, "dataset": scratch / seen.prepared}, scratch, _quiet)
    report: Json = json.loads((scratch / result.report).read_text())
    file = scratch / (model.served if result.calibrated is None else result.model)
    served = _probabilities(file, folder / "hidden_inputs.npz")
    return told_of(report) | {"through": "worker", "splits": dict(seen.profile.splits or {})}, report, served


def run_scores(runs: Sequence[Run]) -> None:
    """The same runs by the scores of the uploaded model alone: the section `scores`, in folders of their own."""
    for name, seed, folder in runs:
        mine = folder.with_name(f"{name}-{SCORES}-{seed}")
        if (mine / "served.npz").exists() or not (folder / "peers.npz").exists():
            continue
        mine.mkdir(exist_ok=True)
        for file in ("hidden.npz", "peers.npz"):
            shutil.copy(folder / file, mine / file)
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
            keep(
                (name, seed, mine),
                lambda folder=folder, scratch=scratch: _scores_calibrated(folder, Path(scratch)),  # type: ignore[misc]
                section=SCORES,
            )


def _scores_calibrated(folder: Path, scratch: Path) -> tuple[Json, Json, NDArray[np.float64]]:
    """As `_calibrated`, of the scores of calibration and test rows."""
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


def _probabilities(file: Path, inputs: Path) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    answer = session.run(["probabilities"], dict(np.load(inputs).items()))[0]
    return np.asarray(answer, np.float64)


def _quiet(event: object) -> None:
    """A worker's child tells its progress; nothing listens here."""
