"""Results: what a child found, one model per kind of work, validated before anything of it is published."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.registry.documents import DatasetProfile, Document, JsonObject, ModelProfile, Plan, Verdict

#: A file in the child's folder, never a path.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


class DatasetInspection(Document):
    """A dataset that is ready, and its prepared copy."""

    profile: DatasetProfile
    prepared: FileName


class ModelInspection(Document):
    """A model that is ready, and its served copy."""

    profile: ModelProfile
    served: FileName


class ScoresProfile(Document):
    """What was sent: scores of which kind, of how many rows and classes."""

    input: Literal["logits", "probabilities"]
    num_samples: int
    num_classes: int
    class_names: list[str]


class ScoresResult(Document):
    """A fitted calibrator, its files, and the part of its report that its record shows."""

    method: str
    parameters: JsonObject
    excerpt: JsonObject
    profile: ScoresProfile
    onnx: FileName
    report: FileName
    page: FileName
    diagram: FileName


class BatchResult(Document):
    """Predictions, as Parquet."""

    results: FileName
    num_rows: int = Field(ge=0)


class JobResult(Document):
    """The outcome of a job; `calibrated` is the profile of the file `model`, None where none was made."""

    verdict: Verdict
    promoted: bool
    calibrated: ModelProfile | None
    model: FileName
    report: FileName
    page: FileName
    diagram: FileName


class PlanResult(Document):
    """What a dry run found: it stands in the job's record as it is."""

    plan: Plan
