"""Orders: what a child is to do, one model per kind of work, and the replies to a child that asks for more of it.

An order holds the sender's words and an earlier child's findings, but never a path: the files that a child may read
are a list of their own (`worker.sandbox.protocol.ChildRequest.files`), by the names that each order's docstring gives.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from fedlas.contract.base import Document
from fedlas.contract.options import AnswerOptions, DatasetOptions, ModelOptions, ScoresOptions
from fedlas.contract.profiles import ModelProfile
from fedlas.contract.requests import BatchErrors, JobRequest


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
    """The order to predict the rows of one shard, and then of those that replies name (`worker.documents.orders`)."""

    kind: Literal["predict_shard"] = "predict_shard"
    shard: RowRange


class OrderedModel(Document):
    id: str
    name: str | None = None
    sha256: str
    row_key: str = Field(
        pattern=r"^[0-9a-f]{32}$", description="Of the digests of rows that it has seen, or will have."
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
        created_at: when the job was ordered, which all its attempts are told alike.
        looks_before: how often the test rows have been looked at before.
        checkpoint_seconds: the least time between two saved states of a training; None where nothing is saved. What
            earlier attempts have saved are the files `checkpoint.NAME`.
        begun_at: when this attempt began, in seconds since 1970: its budget counts from there.
    """

    job_id: str
    created_at: AwareDatetime | None = None
    request: JobRequest
    model: OrderedModel
    dataset: OrderedDataset
    looks_before: int = Field(0, ge=0)
    checkpoint_seconds: float | None = None
    begun_at: float | None = None


class CalibrateOrder(JobOrder):
    kind: Literal["calibrate"] = "calibrate"


class PlanOrder(JobOrder):
    kind: Literal["plan"] = "plan"


#: The order of any kind of work; `kind` tells which.
WorkOrder = Annotated[
    InspectDatasetOrder | InspectModelOrder | ScoresOrder | BatchOrder | ShardOrder | CalibrateOrder | PlanOrder,
    Field(discriminator="kind"),
]


class PredictReply(Document):
    """Predict these rows next, leave them as a part, and ask again."""

    do: Literal["predict"] = "predict"
    shard: RowRange


class EndReply(Document):
    """There is nothing left for this child: it answers and ends."""

    do: Literal["end"] = "end"


Reply = PredictReply | EndReply
REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="do")])
