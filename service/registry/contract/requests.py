"""Requests: the bodies of calls that create or change a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedlas.deployment import priors_of
from service.registry.answer_options import AnswerOptions, GivenPriors
from service.registry.errors import InvalidRequest
from service.registry.json_models import Reference, Strict
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

#: What `accept_warnings` may name: only these can be certain enough to fail a job.
WarningCode = Literal[
    "label_order",
    "labels_from_one",
    "input_scale",
    "input_channels",
    "input_columns",
    "input_tokens",
    "constant_answers",
    "constant_column",
    "softmax_twice",
    "few_rows",
]

#: When a job's model becomes the next version of `publish_as`.
PublishWhen = Literal["promoted", "shown", "always"]
Auto = Literal["auto"]
PositiveValue = Annotated[float, Field(gt=0, le=1000)]


class Hyperparameters(Strict):
    """Hyperparameters of the fine-tune; `auto` leaves a value to the race."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    optimizer: Literal["auto", "sgd", "adamw"] = Field(
        "auto", description="`auto`: AdamW for transformers, SGD with momentum for all others."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = Field("auto", description="Of the network, per step.")
    batch_size: Annotated[int, Field(ge=2, le=65536)] | Auto = "auto"
    alpha: Annotated[float, Field(gt=0, le=0.5)] | Auto = Field("auto", description="Mean smoothing; at most 0.5.")
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
    max_recall_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How much recall at the most probable class any class may lose; null: recall is not guarded.",
    )


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
    max_cost_factor: Annotated[float, Field(ge=1, le=10)] | Auto = Field(
        "auto",
        description="How many uploaded models an answer of the served one may cost; `auto`: 3 where the model is small "
        "(an average of three answers a row in less than a millisecond), else 1.",
    )
    publish_as: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    publish_when: PublishWhen | None = Field(
        None,
        description="When a version that answers already is replaced. `promoted`: where something else than the "
        "uploaded model is served; `shown`, and null: where test rows show it to be better. A new name always gets its "
        "first version.",
    )
    class_priors: GivenPriors = Field(
        None,
        description="How often each class occurs where the model is used, by class name; sums to 1. Its answers are "
        "for these priors; what is judged and promised is of the dataset as it is.",
    )
    accept_warnings: list[WarningCode] = Field(
        default_factory=list,
        max_length=20,
        description="Codes of warnings that would end the job, and shall not; each must be given.",
    )
    webhook: Webhook | None = None
    accelerator: Literal["auto", "gpu"] = Field(
        "auto",
        description="`gpu`: waits for a worker with a GPU; `auto`: takes the first free worker, on its best device.",
    )
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
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

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raise InvalidRequest where the class priors are not of exactly these classes."""
        try:
            _ = self.class_priors and priors_of(self.class_priors, class_names)
        except ValueError as error:
            raise InvalidRequest("invalid_request", str(error), field="class_priors") from error


class JobRequest(JobOptions):
    """`POST /v1/jobs`."""

    model_id: Reference
    dataset_id: Reference


#: What a row that cannot be answered does to its batch.
BatchErrors = Literal["fail", "column"]


class BatchRequest(AnswerOptions):
    """`POST /v1/predictions`."""

    model: Reference = Field(description="A model id or a published name.")
    dataset_id: Reference
    errors: BatchErrors = Field(
        "fail",
        description="`fail`: the batch ends with the first row that cannot be answered; `column`: such a row has an "
        "`error` in place of an answer, and all others are answered.",
    )


#: The code of a calibration on rows of which nobody has said whether the model was trained on them.
PROVENANCE_NEEDED = "provenance_needed"
#: The sentence that goes with it.
NEEDS_PROVENANCE = (
    "nobody has said which of the rows the model was trained on, and rows that it has seen cannot judge it: send the "
    "dataset with seen_by_model=no (on the command line --seen-by-model no) if it saw none of them, or with a column "
    "split whose train rows are those it saw"
)

#: The code of a calibration on rows without labels.
UNLABELLED = "unlabelled_dataset"


def needs_labels(dataset_id: str) -> str:
    """The sentence that goes with `UNLABELLED`."""
    return (
        f"the rows of {dataset_id} have no labels, so that nothing can be fitted to or judged on them, only predicted "
        '(POST /v1/predictions): send them with a column label, or say which one it is, roles={"label": "its name"} '
        "(on the command line --role label=NAME), and without purpose=predict"
    )


class UploadRequest(Strict):
    """`POST /v1/uploads`."""

    bytes: int = Field(gt=0, description="How large the whole file is.")


class DefaultVersion(Strict):
    """`PUT /v1/names/{name}`; one of its fields at least."""

    default_version: int | None = Field(None, ge=1, description="The present one where it is not given.")
    instead_of: int | None = Field(
        None,
        ge=1,
        description="The version that must still answer: nothing is changed where another was chosen meanwhile.",
    )
    class_priors: GivenPriors = Field(
        None,
        description="How often each class occurs among the rows that this version is asked for; null takes them away.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> DefaultVersion:
        if self.default_version is None and "class_priors" not in self.model_fields_set:
            raise ValueError("default_version or class_priors is needed")
        return self
