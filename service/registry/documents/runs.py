"""Documents of jobs and batches: a dry run's plan, the data of events, and the manifest of results."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from service.registry.documents.profiles import FeatureSpec, Notice, SeenByModel, SplitCounts
from service.registry.documents.report import Figure
from service.registry.json_models import Document


class PlannedClass(Document):
    """A class of the model, and the rows of the dataset that have it."""

    index: int
    name: str
    rows: int


class PlannedLabels(Document):
    """The mapping of the dataset's labels to the model's classes."""

    classes: list[PlannedClass]
    matched_by: Literal["name", "index"]


class Leakage(Document):
    """Rows of the judging splits that occur elsewhere too."""

    seen_by_model: SeenByModel
    shared_rows: dict[str, dict[str, int]] = Field(description="Split → other split → rows with the same inputs.")


class UploadedScores(Document):
    """The uploaded model on one split."""

    split: str
    accuracy: Figure
    confidence: Figure
    nll: Figure
    brier: Figure


class PlanEstimate(Document):
    """The estimated cost of the job, measured on a few steps."""

    minutes: float = Field(description="Within the budget.")
    minutes_in_full: float = Field(description="Where every candidate is trained to the end.")
    budget_minutes: float
    candidates: int
    memory_bytes: int
    device: str


class DetectableEffect(Document):
    """The smallest gain that the test rows would show."""

    score: str
    gain: Figure
    power: float
    test_rows: int
    temperature_would_gain: Figure = Field(description="On the calibration rows.")


class Plan(Document):
    """The plan of a job: what its order would do."""

    features: FeatureSpec
    trainable: bool
    trains: bool = Field(description="Whether anything would be trained, rather than only calibrated.")
    labels: PlannedLabels
    leakage: Leakage
    splits: SplitCounts
    calibrated_on: dict[str, int] | None = Field(
        None, description="Split → rows of it that would calibrate; train rows that were drawn and would be idle do."
    )
    uploaded: UploadedScores
    estimate: PlanEstimate
    detectable_effect: DetectableEffect | None
    warnings: list[Notice]
    fails_with: str | None = Field(None, description="The code of a warning with which the job would fail.")
    adjustments: list[Notice] = Field(default_factory=list)


#: As the race calls a candidate; a hostile child calls it nothing longer.
CandidateName = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=1)]
Stage = Literal["inspecting", "evaluating", "training", "calibrating", "exporting", "publishing"]


class Progress(Document):
    """The progress of a job; `eta_seconds` is an estimate from what has been done, or null."""

    fraction: float = 0.0
    candidate: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    eta_seconds: float | None = None


class StatusChanged(Document):
    """Type `status`."""

    status: str


class StageChanged(Document):
    """Type `stage`."""

    stage: Stage


class TrainingBegun(Document):
    """Type `training`: a candidate of the race begins to train, without one fold of the rows or on all of them."""

    candidate: CandidateName
    method: str
    scope: str
    number: Count
    candidates: Count
    fold: Count | None = None
    folds: Count | None = None
    epochs: Count


class EpochEnded(Document):
    """Type `epoch`: an epoch of such a training is over; its loss is the candidate's own."""

    candidate: CandidateName
    number: Count
    fold: Count | None = None
    folds: Count | None = None
    epoch: Count
    epochs: Count
    loss: float
    learning_rate: float | None = None
    seconds: float


class FoldScored(Document):
    """Type `score`: the NLL of rows that a training left out, with a temperature; candidates compare by it."""

    candidate: CandidateName
    number: Count
    fold: Count
    folds: Count
    nll: float


class CandidateEnded(Document):
    """Type `candidate`: one candidate of the race has ended."""

    name: str
    method: str
    scope: str
    status: str
    reason: str
    calibration: dict[str, float | None] | None
    seconds: float


class AttemptEnded(Document):
    """Type `attempt`: a process or worker was lost or handed the job back, and it goes on."""

    reason: str


class Publication(Document):
    """Type `publication`: the version of a name that the job's model has become, or why it has become none."""

    name: str
    version: int | None = None
    reason: str | None = None


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PartResult(Document):
    """Result of one shard, beside the file of its answers."""

    num_rows: int = Field(ge=1)
    num_errors: int | None = Field(None, ge=0)
    bytes: int = Field(ge=1)


class ResultPart(Document):
    """A part of the results: a Parquet file of neighbouring rows of the dataset."""

    number: int = Field(ge=0, description="Of the part, from 0; `/results/parts/{number}` is its file.")
    first_row: int = Field(ge=0, description="Of the dataset, counted from 0.")
    num_rows: int = Field(ge=1, description="How many rows it has.")
    bytes: int = Field(ge=1)
    sha256: Sha256 = Field(description="Of the file.")

    @property
    def rows(self) -> range:
        return range(self.first_row, self.first_row + self.num_rows)


class BatchManifest(Document):
    """All parts of a batch's results; their rows are those of the dataset, in its order, once each."""

    format_version: Literal[1] = Field(1, description="Of manifests.")
    batch_id: str = Field(description="Whose results they are.")
    model_sha256: Sha256 | None = Field(
        None, description="Of the model's file, as in its record; null where results are one file and it is deleted."
    )
    dataset_sha256: Sha256 | None = Field(None, description="The same of the dataset's file.")
    num_rows: int = Field(ge=0, description="Of all parts together.")
    num_errors: int | None = Field(None, ge=0, description="With `errors: column`: rows without an answer.")
    parts: list[ResultPart] = Field(min_length=1, description="In the order of their rows.")

    @model_validator(mode="after")
    def _parts_are_the_whole(self) -> BatchManifest:
        first = 0
        for number, part in enumerate(self.parts):
            if (part.number, part.first_row) != (number, first):
                found = f"part {part.number} begins with row {part.first_row}"
                raise ValueError(f"{found} where part {number} must begin with row {first}")
            first += part.num_rows
        if first != self.num_rows:
            raise ValueError(f"its {len(self.parts)} parts have {first} rows together, not {self.num_rows}")
        return self
