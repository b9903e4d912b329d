"""Requests: the bodies of calls that create or change a record."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedlas.contract.base import OPEN, PublishedName, Reference, Strict
from fedlas.contract.options import AnswerOptions, GivenPriors, WarningCode
from fedlas.contract.webhooks import parse_secret, parse_url

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

PublishWhen = Literal["calibrated", "significant", "always"]
Accelerator = Literal["auto", "gpu"]
OptionalOutput = Literal["features", "typicality"]
Auto = Literal["auto"]
PositiveValue = Annotated[float, Field(gt=0, le=1000)]
CostFactor = Annotated[float, Field(ge=1, le=10)]


class Hyperparameters(Strict):
    """Hyperparameters of the fine-tune; `auto` leaves a value to the race."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = Field("auto", description="Passes over the train rows.")
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = Field(
        "auto", description="Learning rate of the first step; it falls from there."
    )
    optimizer: Annotated[Literal["auto", "sgd", "adamw"], OPEN] = Field(
        "auto", description="`auto`: AdamW for transformers, SGD with momentum for all others."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="Weight decay of the network, per step."
    )
    batch_size: Annotated[int, Field(ge=2, le=65536)] | Auto = Field(
        "auto", description="The number of rows of a training step."
    )
    alpha: Annotated[float, Field(gt=0, le=0.5)] | Auto = Field("auto", description="Mean smoothing; at most 0.5.")
    beta: PositiveValue | Auto = Field("auto", description="Strength of the term on feature norms.")
    margin: PositiveValue | Auto = Field("auto", description="Largest distance of logits that is not punished.")
    momentum: Annotated[float, Field(gt=0, le=1)] | Auto = Field(
        "auto", description="Weight of the newest batch in the running feature statistics."
    )
    scope: Annotated[Literal["auto", "all", "head"], OPEN] = Field(
        "auto", description="Trained weights: `all` of them, or those of the last layer (`head`)."
    )


_NUMBER = r"(\d+(?:\.\d+)?)"
#: Hours, minutes and seconds, each with its letter; a number without one is minutes.
_TIME = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}(?:m|$))?(?:{_NUMBER}s)?")


def parse_budget(value: str | float | timedelta, *, name: str = "budget") -> float:
    """Minutes of the option `name`, given as minutes, a `timedelta`, or a text such as "2m"; raises ValueError.

    >>> [parse_budget(value) for value in (2, "2", "2m", "90s", "1h30m", timedelta(minutes=2))]
    [2.0, 2.0, 2.0, 1.5, 90.0, 2.0]
    >>> parse_budget("soon")
    Traceback (most recent call last):
    ValueError: budget is 'soon'; expected minutes above 0, or a time such as '90s', '2m' or '1h30m'
    """
    minutes = value.total_seconds() / 60 if isinstance(value, timedelta) else value
    if isinstance(minutes, str):
        match = _TIME.fullmatch(minutes.strip())
        minutes = (
            sum(float(part or 0) * scale for part, scale in zip(match.groups(), (60, 1, 1 / 60), strict=True))
            if match
            else 0
        )
    if not isinstance(minutes, int | float) or isinstance(minutes, bool) or not 0 < minutes < 1e9:
        needed = "expected minutes above 0, or a time such as '90s', '2m' or '1h30m'"
        raise ValueError(f"{name} is {value!r:.80}; {needed}")
    return float(minutes)


class Budget(Strict):
    """The budget of a job; the uploaded model with a temperature always finishes."""

    minutes: float = Field(30, gt=0, le=10_000, description="Minutes that the whole job may take.")
    candidates: int = Field(16, ge=1, le=1000, description="Candidates that are tried, at most.")


class QueueLimit(Strict):
    """The time that a job may wait for a worker."""

    minutes: float = Field(gt=0, le=43_200, description="Minutes after its creation, at most 30 days.")


class GateOptions(Strict):
    """Options of the gate, which compares the finalists on the test rows."""

    score: Annotated[Literal["brier", "nll"], OPEN] = Field(
        "brier", description="The proper score that the served model has to improve."
    )
    confidence_level: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of all claims together.")
    max_accuracy_drop: float = Field(0.005, ge=0, le=1, description="Accuracy that the served model may lose.")
    max_recall_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Recall at the most probable class that any class may lose; null: recall is not guarded.",
    )


class Webhook(Strict):
    """The receiver of a message about the job's end."""

    url: str = Field(max_length=2000, description="The https address to which messages are sent.")
    secret: str = Field(
        max_length=200,
        repr=False,
        description="The key that signs the messages, as in Standard Webhooks: `whsec_` and base64.",
    )

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
    """All options of a job, without its model and dataset."""

    method: Method = Field("auto", description="The method of calibration; `auto` races those that suit the network.")
    hyperparameters: Hyperparameters = Field(
        default_factory=Hyperparameters, description="Hyperparameters of the fine-tune."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="The seed of all random draws.")
    budget: Budget = Field(default_factory=Budget, description="Time and candidates that may be spent.")
    expected_accuracy: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Accuracy of the uploaded model, as its owner knows it; missed by more than 0.05, the job fails "
        "with `baseline_mismatch`.",
    )
    gate: GateOptions = Field(default_factory=GateOptions, description="The rule that decides which model is served.")
    max_cost_factor: CostFactor | Auto = Field(
        "auto",
        description="How many networks an answer may need; `auto`: 3 where three answer a row in less than a "
        "millisecond, else 1.",
    )
    publish_as: PublishedName | None = Field(
        None, description="The name under which the served model answers; each job adds a version."
    )
    publish_when: PublishWhen | None = Field(
        None,
        description="When a version that answers already is replaced. `calibrated`: if anything but the uploaded "
        "model is served; `significant`, and null: if test rows show it to be better.",
    )
    cancel_after: QueueLimit | None = Field(
        None, description="A job that has not begun by then is cancelled; null: it waits."
    )
    class_priors: GivenPriors = Field(
        None,
        description="How often each class occurs where the model is used, by class name; sums to 1. Report and "
        "guarantees keep the dataset's.",
    )
    accept_warnings: list[WarningCode] = Field(
        default_factory=list, max_length=20, description="Codes of warnings that shall not end the job."
    )
    webhook: Webhook | None = Field(None, description="The receiver of a message about the job's end.")
    outputs: list[OptionalOutput] = Field(
        default_factory=list,
        max_length=2,
        description="More outputs of the calibrated file.",
    )
    accelerator: Accelerator = Field(
        "auto",
        description="`gpu`: waits for a worker with a GPU; `auto`: takes the first free worker.",
    )
    metadata: dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict,
        max_length=50,
        description="Pairs that the record repeats, 50 at most.",
    )
    dry_run: bool = Field(False, description="Check everything and estimate; train and publish nothing.")


class JobRequest(JobOptions):
    """A calibration of a stored model on a stored dataset."""

    model_id: Reference = Field(description="The id of the model, which may still be inspecting.")
    dataset_id: Reference = Field(description="The id of the dataset, which may still be inspecting.")


BatchErrors = Literal["fail", "column"]


class BatchRequest(AnswerOptions):
    """Predictions over a stored dataset."""

    model: Reference = Field(description="A model id or a published name.")
    dataset_id: Reference = Field(description="The id of the dataset, which may still be inspecting.")
    errors: BatchErrors = Field(
        "fail",
        description="`fail`: the batch ends with the first row that cannot be answered; `column`: such a row has an "
        "`error` in place of an answer, and all others are answered.",
    )


class UploadRequest(Strict):
    """A file that will arrive in pieces."""

    bytes: int = Field(gt=0, description="Size of the whole file in bytes.")


class NameUpdate(Strict):
    """A change of a published name; one of its fields at least."""

    default_version: int | None = Field(
        None, ge=1, description="The version that answers; without it the present one stays."
    )
    instead_of: int | None = Field(
        None,
        ge=1,
        description="The version that must still answer: nothing is changed where another was chosen meanwhile.",
    )
    class_priors: GivenPriors = Field(
        None,
        description="How often each class occurs among the rows that this version answers; null takes them away.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> NameUpdate:
        if self.default_version is None and "class_priors" not in self.model_fields_set:
            raise ValueError("default_version or class_priors is needed")
        return self
