"""Results: what a child found, one model per kind of work, validated before anything of it is published."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from service.registry.documents import (
    DatasetProfile,
    Document,
    JsonObject,
    ModelProfile,
    Notice,
    Plan,
    PriorsInput,
    Verdict,
)

#: How the id of a job looks.
JOB_ID = r"^job_[0-9a-z]{1,36}$"
#: A file in the child's folder, never a path.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


class Result(Document):
    """What a child found; the fields in `left` name the files that it leaves."""

    left: ClassVar[tuple[str, ...]] = ()

    def files(self) -> dict[str, str]:
        """The names of the files in the child's folder, by field."""
        return {name: getattr(self, name) for name in self.left}


class DatasetInspection(Result):
    """A dataset that is ready, and its prepared copy."""

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
    """Predictions, as Parquet."""

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
    promoted: bool
    shown: bool
    calibrated: ModelProfile | None
    model: FileName
    report: FileName
    page: FileName
    diagram: FileName
    predictions: FileName
    seen_rows: FileName | None = None
    adjustments: list[Notice] = Field(default_factory=list)

    def files(self) -> dict[str, str]:
        """The names of the files; the uploaded model itself is not left again."""
        not_left = (
            {"model", "seen_rows"} if self.calibrated is None else {"seen_rows"} if self.seen_rows is None else set()
        )
        return {name: file for name, file in super().files().items() if name not in not_left}


class PlanResult(Result):
    """The result of a dry run, as it stands in the job's record."""

    plan: Plan
