"""Requests: the bodies of calls that create or change a record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from service.registry.documents.base import Reference, Strict
from service.registry.webhooks import parse_secret, parse_url

Method = Literal[
    "auto",
    "fedlas",
    "fedlas_plus",
    "label_smoothing",
    "mbls",
    "acls",
    "focal",
    "cross_entropy",
    "post_hoc",
    "temperature",
]

Auto = Literal["auto"]
AlphaValue = Annotated[float, Field(gt=0, le=0.5)]
PositiveValue = Annotated[float, Field(gt=0, le=1000)]
MetadataName = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class Hyperparameters(Strict):
    """Of the fine-tune; `auto` leaves a value to the race."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=2, le=65536)] | Auto = "auto"
    alpha: AlphaValue | Auto = Field("auto", description="Mean smoothing; at most 0.5.")
    beta: PositiveValue | Auto = "auto"
    margin: PositiveValue | Auto = "auto"
    momentum: Annotated[float, Field(gt=0, le=1)] | Auto = Field(
        "auto", description="Weight of the newest batch in the running feature statistics."
    )
    scope: Literal["auto", "all", "head"] = "auto"


class Budget(Strict):
    """The budget of a job; the uploaded model with a temperature always finishes."""

    minutes: float = Field(30, gt=0, le=10_000)
    candidates: int = Field(16, ge=1, le=1000)


class GateOptions(Strict):
    """Options of the gate, which compares the finalists on the test rows."""

    score: Literal["brier", "nll"] = "brier"
    confidence_level: float = Field(0.95, gt=0.5, lt=1)
    max_accuracy_drop: float = Field(0.005, ge=0, le=1)


class Webhook(Strict):
    """The receiver of a message about the job's end."""

    url: str = Field(max_length=2000)
    secret: str = Field(max_length=200, repr=False)

    @field_validator("url")
    @classmethod
    def _url_is_plain(cls, value: str) -> str:
        parse_url(value)  # where it may lead is the operator's policy, and checked on the address connected to
        return value

    @field_validator("secret")
    @classmethod
    def _secret_is_a_key(cls, value: str) -> str:
        parse_secret(value)
        return value


class JobOptions(Strict):
    """Everything of a job but its model and dataset."""

    method: Method = "auto"
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)
    seed: int = Field(0, ge=0, lt=2**63)
    budget: Budget = Field(default_factory=Budget)
    expected_accuracy: float | None = Field(None, ge=0, le=1)
    gate: GateOptions = Field(default_factory=GateOptions)
    max_cost_factor: float = Field(
        1.5, ge=1, le=10, description="How much dearer than the uploaded model an answer of the served one may be."
    )
    publish_as: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    publish_when: Literal["promoted", "always"] = "promoted"
    webhook: Webhook | None = None
    accelerator: Literal["auto", "gpu"] = Field(
        "auto",
        description="`gpu`: waits for a worker with a GPU; `auto`: takes the first free worker, on its best device.",
    )
    metadata: dict[MetadataName, MetadataValue] = Field(
        default_factory=dict,
        max_length=50,
        description="Words of your own: 50 at most, names of 64 and values of 512 characters.",
    )
    dry_run: bool = Field(False, description="Check everything and estimate; train and publish nothing.")

    @model_validator(mode="after")
    def _name_is_no_id(self) -> JobOptions:
        if self.publish_as and self.publish_as.startswith("mdl_"):
            raise ValueError("publish_as must not look like a model id (mdl_…)")
        return self


class JobRequest(JobOptions):
    """`POST /v1/jobs`."""

    model_id: Reference
    dataset_id: Reference


class AnswerOptions(Strict):
    """Options of an answer: what a prediction carries beside the label."""

    model_config = ConfigDict(frozen=True)

    top_k: int | None = Field(None, ge=1, le=1000)
    abstain_below: float | None = Field(None, ge=0, le=1)
    max_error: float | dict[str, float] | None = Field(
        None,
        description="Abstain so that at most this share of the answers is wrong; or such a share of each true class's "
        'answers: `{"class": share}` for every class, or by class name.',
    )
    coverage: float | dict[str, float] | None = Field(
        None,
        description="Answer `prediction_set`, which holds the true class with this probability; or with such a "
        'probability for the rows of each true class: `{"class": c}` for every class, or by class name.',
    )
    decision: dict[str, JsonValue] | None = Field(
        None,
        description='`{"threshold": t}` on the positive class, or `{"costs": [[…]]}`: rows decide, columns are true.',
    )


class BatchRequest(AnswerOptions):
    """`POST /v1/predictions`."""

    model: Reference = Field(description="A model id or a published name.")
    dataset_id: Reference


class UploadRequest(Strict):
    """`POST /v1/uploads`."""

    bytes: int = Field(gt=0, description="How large the whole file is.")


class DefaultVersion(Strict):
    """`PUT /v1/names/{name}`."""

    default_version: int = Field(ge=1)
