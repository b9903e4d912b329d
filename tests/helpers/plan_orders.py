"""Orders of plans, as a child of the worker receives them after both inspections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedlas.contract.options import DatasetOptions, ModelOptions
from fedlas.contract.requests import JobRequest
from tests.helpers import Json
from worker.documents import InspectDatasetOrder, InspectModelOrder, JobOrder, OrderedDataset, OrderedModel
from worker.inside.channel import Files
from worker.inside.inspection import inspect_dataset, inspect_model


def an_order(
    folder: Path,
    rows: Json | bytes,
    model: bytes,
    *,
    model_options: Json | None = None,
    dataset_options: Json | None = None,
    **request: Any,
) -> tuple[JobOrder, Files]:
    """A request to the worker's child, after both inspections; `rows` are arrays, or a file of any format."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, bytes):
        (folder / "rows.npz").write_bytes(rows)
    else:
        np.savez(folder / "rows.npz", **rows)
    (folder / "model.onnx").write_bytes(model)
    options, file = ModelOptions(**(model_options or {})), folder / "model.onnx"
    data_order = InspectDatasetOrder(options=DatasetOptions(**(dataset_options or {})))
    inspect_dataset(data_order, {"dataset": folder / "rows.npz"}, folder, lambda _: None)
    seen = inspect_model(InspectModelOrder(options=options), {"model": file}, folder, lambda _: None)
    order = JobOrder(
        kind="plan",
        job_id="job_1",
        request=JobRequest(model_id="mdl_1", dataset_id="ds_1", **request),
        model=OrderedModel(id="mdl_1", sha256="0", row_key="0" * 32, options=options, profile=seen.profile),
        dataset=OrderedDataset(id="ds_1", sha256="1", prepared_sha256="2"),
    )
    return order, {"model": file, "dataset": folder / "prepared.npz"}
