"""Options of models, datasets, jobs and answers: keyword arguments, and the queries and bodies made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict
from urllib.parse import quote

from fedlas.client.errors import InvalidInput
from fedlas.contract.options import WarningCode
from fedlas.contract.profiles import Missing, Purpose, SeenByModel, Task
from fedlas.contract.records import BatchStatus, CalibratorStatus, JobStatus, UploadStatus
from fedlas.contract.requests import Accelerator, Auto, Method, OptionalOutput, PublishWhen, parse_budget
from fedlas.contract.scores import WantedPromise


class HasId(Protocol):
    """A record with an id."""

    @property
    def id(self) -> str:
        """The id."""


def id_of(record: str | HasId) -> str:
    """The id of a record, or the id or name itself, for a path."""
    record_id = record if isinstance(record, str) else getattr(record, "id", None)
    if not isinstance(record_id, str):
        raise InvalidInput("bad_id", f"found {record!r:.80}; expected an id, a name, or a record")
    if record_id in ("", ".", ".."):
        raise InvalidInput(
            "empty_id" if not record_id else "bad_id",
            "the id or name is " + (repr(record_id) if record_id else "empty"),
        )
    return record_id


def path_part(record: str | HasId) -> str:
    """Id or name, quoted for a path; an empty one would name the whole list."""
    return quote(id_of(record), safe="")


def query(**given: Any) -> dict[str, str | int | float]:
    """Parameters of a query: without None, and what is no text as JSON."""
    return {name: _text(value) for name, value in given.items() if value is not None}


def list_query(metadata: Mapping[str, str] | None = None, **which: Any) -> dict[str, str | int | float]:
    """Parameters of a list."""
    return query(**which, **{f"metadata[{name}]": value for name, value in (metadata or {}).items()})


def _text(value: Any) -> str | int | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(dict(value) if isinstance(value, Mapping) else list(value))


def given(options: Mapping[str, Any], **instead: Any) -> dict[str, Any]:
    """The options that have a value, some of them replaced."""
    return {name: value for name, value in {**options, **instead}.items() if value is not None}


def stored_id(given: object, prefix: str) -> str | None:
    """The id, where a record or its id is given and no file; None for anything else."""
    if isinstance(given, str) and given.startswith(f"{prefix}_") and not Path(given).exists():
        return given
    record_id = getattr(given, "id", None)
    return record_id if isinstance(record_id, str) and record_id.startswith(f"{prefix}_") else None


def check_options(call: Callable[..., Any], kind: Any, options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that the TypedDict `kind` of this call does not have; it names the nearest.

    >>> check_options(check_options, JobOptions, {"metod": "auto"})
    Traceback (most recent call last):
    TypeError: check_options() has no option 'metod'; did you mean 'method'?
    """
    if unknown := [name for name in options if name not in kind.__optional_keys__]:
        from difflib import get_close_matches
        from inspect import signature

        names = sorted({*kind.__optional_keys__, *signature(call).parameters} - {"options"})
        near = get_close_matches(unknown[0], names, 1)
        hint = (
            f"say promise={{{unknown[0]!r}: {options[unknown[0]]!r}}}"
            if "promise" in names and unknown[0] in WantedPromise.model_fields
            else f"did you mean {near[0]!r}?"
            if near
            else f"there are {', '.join(names)}"
        )
        raise TypeError(f"{call.__name__}() has no option {unknown[0]!r}; {hint}")


def names_of(names: Sequence[str] | None) -> list[str] | None:
    """Names as a list; one text is a comma-separated list already."""
    if names is None:
        return None
    return [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)


def json_body(value: Any) -> bytes:
    """A body of JSON; raises InvalidInput for what JSON has no word for, with its field."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        field, unwritable = next(_unwritable(value, ""), ("body", value))
        error = InvalidInput(
            "not_json", f"{field}: found {unwritable!r:.80}; expected a finite number, a text, or a list of them"
        )
        error.field = field
        raise error from None


def _unwritable(value: Any, field: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _unwritable(part, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _unwritable(part, f"{field}.{index}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield field, value
    elif not isinstance(value, str | int | None):
        yield field, value


class JobOptions(TypedDict, total=False):
    """Options of a job; the server has a default for everything.

    Attributes:
        method: `auto` (the race), `fedlas`, `fedlas_plus`, `post_hoc`, `temperature`, ….
        budget: a time such as "2m", "90s" or "1h30m", a `timedelta`, minutes, or `{"minutes": 30, "candidates": 16}`.
        hyperparameters: each a value or `"auto"`.
        seed: of all that is drawn.
        expected_accuracy: of the uploaded model; a wrong order of the labels then fails the job.
        gate: `{"score": "brier", "confidence_level": 0.95, "max_accuracy_drop": 0.005}`.
        max_cost_factor: how many uploaded networks an answer may cost.
        publish_as: the name under which the model is to answer.
        publish_when: `significant`, `calibrated` or `always`.
        cancel_after: how long the job may wait for a worker, as a time; then it is cancelled.
        class_priors: class → share where the model is used.
        accept_warnings: codes of warnings that are not to end the job.
        webhook: `{"url": …, "secret": "whsec_…"}`.
        metadata: pairs that the record repeats.
        outputs: `features` and `typicality`, if the calibrated file is to compute them.
        accelerator: `auto` or `gpu`.
    """

    method: Method
    budget: str | float | timedelta | Mapping[str, float] | None
    hyperparameters: Mapping[str, Any] | None
    seed: int | None
    expected_accuracy: float | None
    gate: Mapping[str, Any] | None
    max_cost_factor: float | Auto | None
    publish_as: str | None
    publish_when: PublishWhen | None
    cancel_after: str | float | timedelta | Mapping[str, float] | None
    class_priors: Mapping[str, float] | None
    accept_warnings: Sequence[WarningCode] | None
    webhook: Mapping[str, str] | None
    metadata: Mapping[str, str] | None
    outputs: Sequence[OptionalOutput] | None
    accelerator: Accelerator | None


def job_body(options: JobOptions) -> dict[str, Any]:
    """The options of a job as `POST /v1/jobs` takes them; raises InvalidInput for a time that is none."""
    return given(options, **{name: _minutes(name, options.get(name)) for name in ("budget", "cancel_after")})


def _minutes(name: str, value: Any) -> Any:
    if value is None or isinstance(value, Mapping):
        return value
    try:
        return {"minutes": parse_budget(value, name=name)}
    except ValueError as problem:
        error = InvalidInput("bad_budget", str(problem))
        error.field = name
        raise error from None


class ModelOptions(TypedDict, total=False):
    """Options of a model upload.

    Attributes:
        name: what it is called; by default the file's name without its suffix.
        class_names: in the order of the outputs.
        columns: names of the columns of the single input, in order.
        task: `binary` or `multiclass`.
        positive_class: of two.
        output: which output classifies, where there are several.
        features: which tensor to tap; by default what goes into the last linear layer.
        preprocessing: how image files become rows.
        padding: input → number that fills shorter rows.
        missing: `nan`: numbers may be missing.
        architecture: of a safetensors file, such as `torchvision/resnet18`: it is written as ONNX here, and then sent.
        num_classes: of that architecture's last layer; by default the file says it.
    """

    name: str | None
    class_names: Sequence[str] | None
    columns: Sequence[str] | None
    task: Task | None
    positive_class: str | None
    output: str | None
    features: str | None
    preprocessing: Mapping[str, Any] | None
    padding: Mapping[str, float] | None
    missing: Missing | None
    architecture: str | None
    num_classes: int | None


class DatasetOptions(TypedDict, total=False):
    """Options of a dataset upload.

    Attributes:
        name: what it is called; by default the file's name without its suffix.
        format: `npz`, `csv`, `parquet` or `imagefolder`; by default the content decides.
        roles: role → column (`label`, `split`, `group`, `slices`, `weight`, `time`, `id`).
        seen_by_model: which rows the model was trained on: `no`, `train_split` or `unknown`.
        split_seed: of splits that are drawn.
        split_shares: split → share of the rows, where splits are drawn.
        missing: `reject`, or `nan`: numbers may be missing.
        padding: input → number that fills ragged lists.
        purpose: `fit`, or `predict` for rows without labels.
    """

    name: str | None
    format: Literal["npz", "csv", "parquet", "imagefolder"] | None
    roles: Mapping[str, Any] | None
    seen_by_model: SeenByModel | None
    split_seed: int | None
    split_shares: Mapping[str, float] | None
    missing: Missing | None
    padding: Mapping[str, float] | None
    purpose: Purpose | None


class CalibrateOptions(JobOptions, total=False):
    """Options of `client.calibrate`: those of the job, and of the files that are sent.

    Attributes:
        seen_by_model: which rows the model was trained on: `no`, `train_split` or `unknown`.
        class_names: of the model, in the order of its outputs.
        example: a batch of inputs, with which a module is exported; by default the first rows of the data, which has
            some where it is neither a file nor stored.
        model_options: further keywords of `client.models.upload`.
        dataset_options: further keywords of `client.datasets.upload`.
    """

    seen_by_model: SeenByModel | None
    class_names: Sequence[str] | None
    example: Any
    model_options: ModelOptions | None
    dataset_options: DatasetOptions | None


class ScoresOptions(TypedDict, total=False):
    """Options of a calibrator.

    Attributes:
        name: what it is called; by default the file's name without its suffix.
        method: `auto`, or a calibrator by name.
        class_names: in the order of the scores.
        roles: role → column, where the names are others than those of the roles.
        split_shares: split → share of the rows, where splits are drawn.
        class_priors: class → share where the calibrator is used.
        promise: of one score or several signals, that of the threshold: `{"max_error": 0.05}`, `{"precision": 0.95}` or
            `{"recall": 0.9}`, with a `confidence`.
        slice: the column whose values get thresholds of their own.
        valid_for: the version of score, judge or prompt that it holds for.
        accept_warnings: codes of warnings that are not to end the fit.
        publish_as: the name that answers with it, if its promise is kept.
    """

    name: str | None
    method: str | None
    class_names: Sequence[str] | None
    roles: Mapping[str, Any] | None
    split_shares: Mapping[str, float] | None
    class_priors: Mapping[str, float] | None
    promise: Mapping[str, float] | None
    slice: str | None
    valid_for: str | None
    accept_warnings: Sequence[WarningCode] | None
    publish_as: str | None


class RecordFilter(TypedDict, total=False):
    """A filter of the records of a list.

    Attributes:
        after: those older than the record with this id.
        status: those with this status.
        name: those of this name, as a whole.
        created_after: those made after this moment, or after midnight of this day.
        created_before: those made before.
        metadata: those with these pairs, of jobs.
    """

    after: str | None
    status: UploadStatus | JobStatus | BatchStatus | CalibratorStatus | None
    name: str | None
    created_after: datetime | str | None
    created_before: datetime | str | None
    metadata: Mapping[str, str] | None


class AnswerOptions(TypedDict, total=False):
    """Options of predictions.

    Attributes:
        top_k: as many of the most probable classes.
        abstain_below: abstain below this confidence.
        max_error: abstain so that at most this share of the answered rows is wrong; or `{"class": share}`.
        coverage: sets of classes that hold the true one with this probability.
        decision: `{"threshold": t}`, `{"costs": [[…]]}` or `{"keep": "alarm_rate"}`.
        class_priors: how often each class occurs among these rows.
        probabilities: the probabilities of all classes.
    """

    top_k: int | None
    abstain_below: float | None
    max_error: float | Mapping[str, float] | None
    coverage: float | Mapping[str, float] | None
    decision: Mapping[str, Any] | None
    class_priors: Mapping[str, float] | None
    probabilities: bool | None
