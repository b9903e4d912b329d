"""The documents that pass the border of the sandbox: orders and replies in, events and results out.

An order says what a child is to do, one model per kind of work. It holds the sender's words and an earlier child's
findings, but never a path: the files that a child may read are a list of their own
(`worker.sandbox.protocol.ChildRequest.files`), by the names that each order's docstring gives.

Events and results are validated on arrival, before anything of them is published. An event that is not what it seems
is dropped as a whole. A child leaves out what it has not set, so the field that tells one event from another has no
default.
"""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from fedlas.contract.base import Document, JsonObject
from fedlas.contract.events import Progress, ReportedEvent, Stage
from fedlas.contract.options import AnswerOptions, DatasetOptions, ModelOptions, ScoresOptions
from fedlas.contract.plan import Plan
from fedlas.contract.profiles import CalibratorInput, DatasetProfile, ModelProfile, Notice, PriorsInput
from fedlas.contract.records import Served, Verdict
from fedlas.contract.requests import BatchErrors, JobRequest
from fedlas.contract.scores import ScorePromise, ScoreVerdict

_MAX_BYTES = 16 * 1024
#: An entry of a journal, and its file in the journal's folder.
EntryName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
EntryFile = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,79}$")]
#: How the id of a job looks.
JOB_ID = r"^job_[0-9a-z]{1,36}$"
#: A file in the child's folder, never a path.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


class InspectDatasetOrder(Document):
    kind: Literal["inspect_dataset"] = "inspect_dataset"
    options: DatasetOptions


class InspectModelOrder(Document):
    kind: Literal["inspect_model"] = "inspect_model"
    options: ModelOptions


class ScoresOrder(Document):
    kind: Literal["fit_scores"] = "fit_scores"
    id: str | None = None
    name: str | None = None
    created_at: AwareDatetime | None = None
    sha256: str
    options: ScoresOptions
    looks_before: int = Field(0, ge=0)
    earlier: list[ScorePromise] = Field(default_factory=list)


class PredictionOrder(Document):
    """The order to predict rows of the file `dataset`, a prepared copy, with the file `model`, a served copy."""

    profile: ModelProfile
    options: AnswerOptions
    errors: BatchErrors = "fail"


class BatchOrder(PredictionOrder):
    kind: Literal["predict"] = "predict"


class RowRange(Document):
    """Neighbouring rows of the owner's file, counted from 0."""

    first_row: int = Field(ge=0)
    num_rows: int = Field(ge=1)

    @property
    def rows(self) -> range:
        return range(self.first_row, self.first_row + self.num_rows)


class ShardOrder(PredictionOrder):
    """The order to predict the rows of one shard, and then of those that replies name (`Reply`)."""

    kind: Literal["predict_shard"] = "predict_shard"
    shard: RowRange


class OrderedModel(Document):
    id: str
    name: str | None = None
    sha256: str
    row_key: str = Field(
        pattern=r"^[0-9a-f]{32}$", description="The key of the digests of rows that it has seen, or will have."
    )
    options: ModelOptions
    profile: ModelProfile


class OrderedDataset(Document):
    id: str
    name: str | None = None
    sha256: str
    prepared_sha256: str


class JobOrder(Document):
    """The order of a job on the files `model`, as it was uploaded, and `dataset`, the prepared copy.

    The file `seen_rows`, where there is one, holds the digests of the rows that the network was trained on.

    Attributes:
        created_at: when the job was created, the same for all its attempts.
        looks_before: how often the test rows have been looked at before.
        checkpoint_seconds: the least time between two saved states of a training; None where nothing is saved. What
            earlier attempts have saved are the files `checkpoint.NAME`.
    """

    kind: Literal["calibrate", "plan"]
    job_id: str
    created_at: AwareDatetime | None = None
    request: JobRequest
    model: OrderedModel
    dataset: OrderedDataset
    looks_before: int = Field(0, ge=0)
    checkpoint_seconds: float | None = None


#: The order of any kind of work; `kind` tells which.
WorkOrder = Annotated[
    InspectDatasetOrder | InspectModelOrder | ScoresOrder | BatchOrder | ShardOrder | JobOrder,
    Field(discriminator="kind"),
]


class Reply(Document):
    """The rows that the child predicts next, leaves as a part, and asks again; without any it answers and ends."""

    shard: RowRange | None = None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class SavedCheckpoint(_Part):
    """An entry of the child's journal: its name, and its file in the journal's folder."""

    name: EntryName
    file: EntryFile


class PredictedPart(_Part):
    """The part of a batch that a saved file is; errors are counted where they are allowed."""

    num_rows: int = Field(ge=1)
    num_errors: int | None = Field(None, ge=0)


class ChildEvent(_Part):
    """One line of a child's events.

    Attributes:
        part: what the checkpoint is, of a batch.
        asks: for a shard; the child waits until a reply comes (`Reply`).
    """

    stage: Stage | None = None
    progress: Progress | None = None
    event: ReportedEvent | None = None
    checkpoint: SavedCheckpoint | None = None
    part: PredictedPart | None = None
    asks: Literal["shard"] | None = None

    @classmethod
    def parse(cls, told: object) -> ChildEvent | None:
        """The event, or None where the child reported none: others will read it in records.

        >>> ChildEvent.parse({"progress": {"fraction": 0.5, "candidate": "fedlas"}}).progress.fraction
        0.5
        >>> ChildEvent.parse({"progress": {"fraction": float("nan")}}) is ChildEvent.parse({"stage": "x"}) is None
        True
        """
        try:
            if len(json.dumps(told, ensure_ascii=False, allow_nan=False).encode()) > _MAX_BYTES:
                return None
            return cls.model_validate(told, strict=True)
        except (ValueError, TypeError, RecursionError):  # half a surrogate pair is no text, either
            return None


class Result(Document):
    """Result of a child; the fields in `left` name the files that it leaves."""

    left: ClassVar[tuple[str, ...]] = ()

    def files(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.left}


class DatasetInspection(Result):
    left = ("prepared",)

    profile: DatasetProfile
    prepared: FileName


class ModelInspection(Result):
    """A model that is ready, and its served copy; `written_by` is the job that wrote the upload, by its own account."""

    left = ("served",)

    profile: ModelProfile
    written_by: str | None = Field(None, pattern=JOB_ID)
    served: FileName


class ScoresProfile(Document):
    """The profile of scores, kind, rows and classes, and of the file that came of them."""

    input: CalibratorInput
    num_samples: int
    num_classes: int
    class_names: list[str]
    priors_input: PriorsInput | None = None
    warnings: list[Notice] = Field(default_factory=list)
    promise: ScorePromise | None = None
    verdict: ScoreVerdict | None = None
    needed_labels: int | None = None


class ScoresResult(Result):
    """A fitted calibrator, its files, and the part of its report that its record shows."""

    left = ("onnx", "report", "page", "diagram")

    method: str
    parameters: JsonObject
    excerpt: JsonObject
    profile: ScoresProfile
    model: ModelProfile | None = Field(None, description="The model that serves one score or several signals.")
    onnx: FileName
    report: FileName
    page: FileName
    diagram: FileName


class BatchResult(Result):
    left = ("results",)

    results: FileName
    num_rows: int = Field(ge=0)
    num_errors: int | None = Field(None, ge=0, description="Rows without an answer, where they are allowed.")


class ShardsResult(Result):
    """The end of a child that predicted shards of a batch; their parts were left one by one."""

    num_shards: int = Field(ge=1)


class JobResult(Result):
    """The outcome of a job; `calibrated` is the profile of the file `model`, None where none was made.

    `served` is its served copy, which computes all outputs.

    `seen_rows` is the file of the rows that the network has seen, None where this job trained none.
    """

    left = ("report", "page", "diagram", "predictions", "model", "served", "seen_rows")

    verdict: Verdict
    serves: Served
    significant: bool
    beats_simpler: bool | None = None
    calibrated: ModelProfile | None
    model: FileName
    served: FileName
    report: FileName
    page: FileName
    diagram: FileName
    predictions: FileName
    seen_rows: FileName | None = None
    adjustments: list[Notice] = Field(default_factory=list)

    def files(self) -> dict[str, str]:
        not_left = (
            {"model", "served", "seen_rows"}
            if self.calibrated is None
            else {"seen_rows"}
            if self.seen_rows is None
            else set()
        )
        return {name: file for name, file in super().files().items() if name not in not_left}


class PlanResult(Result):
    plan: Plan
