"""A dry run of one case by the worker's functions, files in and files out, and what it says."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from benchmarks.mistakes.pair import Pair
from fedlas.calibration import preparation
from fedlas.errors import FedLASError
from service.registry.contract import JobRequest
from worker.documents import (
    CalibrateOrder,
    DatasetInspection,
    DatasetOptions,
    InspectDatasetOrder,
    InspectModelOrder,
    JobOrder,
    ModelInspection,
    ModelOptions,
    OrderedDataset,
    OrderedModel,
    PlanOrder,
)
from worker.inside.calibration import calibrate
from worker.inside.inspection import inspect_dataset, inspect_model
from worker.inside.plan import plan

Json = dict[str, Any]
#: In place of a code where the dry run itself is broken.
CRASH = "crash"
_Order = TypeVar("_Order", bound=JobOrder)


@dataclass(frozen=True)
class Said:
    """What a dry run says of a pair.

    Attributes:
        error: `code` and `message` where a file is rejected or the dry run fails.
        warnings: notices, each with `code`, `message`, `evidence`.
        fails_with: the code with which a job would fail.
        seconds: of the dry run alone, without inspection.
        checks: seconds of the checks of model and dataset together; None where they were not reached.
    """

    error: Json | None = None
    warnings: list[Json] = field(default_factory=list)
    adjustments: list[Json] = field(default_factory=list)
    fails_with: str | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    checks: float | None = None


@dataclass(frozen=True)
class Done:
    """What a job did: an error as in `Said`, or a verdict with the rows that judged."""

    error: Json | None = None
    warnings: list[Json] = field(default_factory=list)
    verdict: str | None = None
    test_rows: int | None = None


_INSPECTED: dict[str, ModelInspection] = {}


def by_worker(pair: Pair, method: str) -> Said:
    """Inspection and dry run in this process; each model is inspected once."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fedlas-mistakes-") as name:
        folder = Path(name)
        model_file, dataset_file = pair.write(folder)
        events: list[Any] = []
        try:
            dataset = _inspected_dataset(pair, dataset_file, folder)
            model = _inspected(_model_options(pair), model_file, folder)
            ordered = _ordered(PlanOrder, pair, method, model)
            began = time.perf_counter()
            files = {"model": model_file, "dataset": folder / dataset.prepared}
            with _timed() as checks:
                found = plan(ordered, files, folder, events.append).plan
        except FedLASError as error:
            problem = {"code": error.code, "message": error.message}
            return Said(error=problem, warnings=_told(events), seconds=time.perf_counter() - began)
        except Exception as error:  # a defect of ours: the other cases go on
            return Said(error={"code": CRASH, "message": repr(error)}, seconds=time.perf_counter() - began)
    return Said(
        warnings=[notice.model_dump() for notice in found.warnings],
        adjustments=[
            notice.model_dump()
            for part in (model.profile, dataset.profile, found)
            for notice in getattr(part, "adjustments", None) or ()
        ],
        fails_with=found.fails_with,
        accuracy=found.uploaded.accuracy,
        seconds=time.perf_counter() - began,
        checks=sum(checks) if checks else None,
    )


def job_by_worker(pair: Pair, folder: Path) -> Done:
    """The whole post-hoc job in this process, as a worker does it after it has inspected both files."""
    model_file, dataset_file = pair.write(folder)
    events: list[Any] = []
    try:
        dataset = _inspected_dataset(pair, dataset_file, folder)
        ordered = _ordered(CalibrateOrder, pair, "post_hoc", _inspected(_model_options(pair), model_file, folder))
        files = {"model": model_file, "dataset": folder / dataset.prepared}
        found = calibrate(ordered, files, folder, events.append)
    except FedLASError as error:
        return Done({"code": error.code, "message": error.message}, _told(events))
    report = json.loads((folder / found.report).read_text())
    return Done(None, _told(events), found.verdict, report["num_test_rows"])


def _told(events: list[Any]) -> list[Json]:
    """The notices among the events of a job."""
    return [event.event.data.model_dump() for event in events if event.event and event.event.type == "warning"]


def _inspected_dataset(pair: Pair, file: Path, folder: Path) -> DatasetInspection:
    order = InspectDatasetOrder(options=DatasetOptions.model_validate(dict(pair.dataset_options)))
    return inspect_dataset(order, {"dataset": file}, folder, _quiet)


def _ordered(kind: type[_Order], pair: Pair, method: str, model: ModelInspection) -> _Order:
    request = {"model_id": "mdl_0", "dataset_id": "ds_0", "method": method, **pair.job_options}
    options, profile = _model_options(pair), model.profile
    return kind(
        job_id="job_0",
        request=JobRequest.model_validate(request),
        model=OrderedModel(id="mdl_0", sha256="0", row_key="0" * 32, options=options, profile=profile),
        dataset=OrderedDataset(id="ds_0", sha256="0", prepared_sha256="0"),
    )


@contextmanager
def _timed() -> Iterator[list[float]]:
    """The seconds of every examination in the block."""
    examine, seconds = preparation.examine, []

    def timed(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return examine(*args, **options)
        finally:
            seconds.append(time.perf_counter() - began)

    with patch.object(preparation, "examine", timed):
        yield seconds


def _model_options(pair: Pair) -> ModelOptions:
    names = {} if pair.model_names is None else {"class_names": list(pair.model_names)}
    return ModelOptions.model_validate({**names, **pair.model_options})


def _inspected(options: ModelOptions, file: Path, folder: Path) -> ModelInspection:
    """The names of classes only stand in the profile, so models that differ in them alone are inspected once."""
    unnamed = options.model_copy(update={"class_names": None})
    key = sha256(file.read_bytes() + json.dumps(unnamed.model_dump(), sort_keys=True).encode()).hexdigest()
    if key not in _INSPECTED:
        _INSPECTED[key] = inspect_model(InspectModelOrder(options=unnamed), {"model": file}, folder, _quiet)
    found = _INSPECTED[key]
    if options.class_names is None:
        return found
    named = {"class_names": options.class_names, "class_names_given": True}
    return found.model_copy(update={"profile": found.profile.model_copy(update=named)})


def _quiet(event: object) -> None:
    """Nothing listens to progress here."""
