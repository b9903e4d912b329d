"""Results and events of a child: each is validated on arrival, before anything of it is published.

An event that is not what it seems is dropped as a whole. A child leaves out what it has not set, so the field that
tells one event from another has no default.
"""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedlas.contract.base import Document, JsonObject
from fedlas.contract.events import Progress, ReportedEvent, Stage
from fedlas.contract.plan import Plan
from fedlas.contract.profiles import DatasetProfile, ModelProfile, Notice, PriorsInput
from fedlas.contract.records import Served, Verdict

_MAX_BYTES = 16 * 1024
#: An entry of a journal, and its file in the journal's folder.
EntryName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
EntryFile = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,79}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class ReportedProgress(Progress):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


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
        asks: for a shard; the child waits until a reply comes (`worker.documents.orders`).
    """

    stage: Stage | None = None
    progress: ReportedProgress | None = None
    event: ReportedEvent | None = None
    checkpoint: SavedCheckpoint | None = None
    part: PredictedPart | None = None
    asks: Literal["shard"] | None = None

    @classmethod
    def parse(cls, told: object) -> ChildEvent | None:
        """The event, or None where the child told of none: others will read it in records.

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


#: How the id of a job looks.
JOB_ID = r"^job_[0-9a-z]{1,36}$"
#: A file in the child's folder, never a path.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


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

    input: Literal["logits", "probabilities"]
    num_samples: int
    num_classes: int
    class_names: list[str]
    priors_input: PriorsInput


class ScoresResult(Result):
    """A fitted calibrator, its files, and the part of its report that its record shows."""

    left = ("onnx", "report", "page", "diagram")

    method: str
    parameters: JsonObject
    excerpt: JsonObject
    profile: ScoresProfile
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

    `seen_rows` is the file of the rows that the network has seen, None where this job trained none.
    """

    left = ("report", "page", "diagram", "predictions", "model", "seen_rows")

    verdict: Verdict
    serves: Served
    significant: bool
    calibrated: ModelProfile | None
    model: FileName
    report: FileName
    page: FileName
    diagram: FileName
    predictions: FileName
    seen_rows: FileName | None = None
    adjustments: list[Notice] = Field(default_factory=list)

    def files(self) -> dict[str, str]:
        not_left = (
            {"model", "seen_rows"} if self.calibrated is None else {"seen_rows"} if self.seen_rows is None else set()
        )
        return {name: file for name, file in super().files().items() if name not in not_left}


class PlanResult(Result):
    plan: Plan
