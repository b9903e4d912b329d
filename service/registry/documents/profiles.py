"""Profiles: what inspection or calibration found out about the file of a dataset or model, and its notices.

`fedlas.preprocessing.Preprocessing` checks the preprocessing and carries it out; `fedlas.guarantees.Guarantees`
computes the guarantees and reads them with `from_dict`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from service.registry.json_models import Document, JsonObject, TensorSpec, is_absent


class Notice(Document):
    """Something that was found or done, with what it rests on."""

    code: str = Field(description="Stable, for machines.")
    message: str
    evidence: JsonObject = Field(default_factory=dict, description="The figures and names behind the message.")
    severity: Literal["info", "warning", "error"] = Field(
        "warning",
        description="`info`: it was done for you; `warning`: it looks wrong; `error`: it is certainly wrong, and the "
        "job fails with this code unless `accept_warnings` names it.",
    )


class Reading(Document):
    """Reading of missing numbers and short rows."""

    padding: dict[str, int | float] | None = Field(None, description="Input → the number that fills its shorter rows.")
    missing: Literal["reject", "nan"] = "reject"


SeenByModel = Literal["no", "train_split", "unknown"]
#: What a dataset is sent for.
Purpose = Literal["fit", "predict"]

_SUM_TOLERANCE = 1e-6


class DatasetRoles(Document):
    """Which column or array plays which role; a role without a column is left out."""

    label: str | None = Field(None, exclude_if=is_absent)
    split: str | None = Field(None, exclude_if=is_absent)
    group: str | None = Field(None, exclude_if=is_absent)
    slices: list[str] | None = Field(None, exclude_if=is_absent)
    weight: str | None = Field(None, exclude_if=is_absent)
    time: str | None = Field(None, exclude_if=is_absent)
    id: str | None = Field(None, exclude_if=is_absent)


class SplitCounts(Document):
    """Rows in each split, fixed once."""

    train: int = 0
    calibration: int = 0
    guarantee: int = 0
    test: int = 0


class SplitShares(Document):
    """Shares of the rows that drawn splits get; they sum to one, and a split that is not named gets none."""

    train: float = Field(0, ge=0, le=1)
    calibration: float = Field(ge=0.01, le=1)
    guarantee: float = Field(0, ge=0, le=1)
    test: float = Field(ge=0.01, le=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = math.fsum((self.train, self.calibration, self.guarantee, self.test))
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"the shares must sum to 1, these sum to {total:g}")
        return self


class DatasetProfile(Document):
    """A dataset as its prepared copy holds it."""

    format: str
    num_samples: int
    labelled: bool = True
    num_classes: int | None = None
    class_names: list[str] | None = None
    class_counts: dict[str, int] | None = None
    inputs: list[TensorSpec]
    roles: DatasetRoles
    seen_by_model: SeenByModel | None = None
    splits: SplitCounts | None = None
    warnings: list[str] = Field(default_factory=list)
    adjustments: list[Notice] = Field(default_factory=list)
    columns: list[str] | None = None
    reading: Reading | None = None

    @model_validator(mode="after")
    def _labels_are_told(self) -> Self:
        needed = ("num_classes", "class_names", "class_counts", "seen_by_model", "splits")
        if self.labelled and (missing := [name for name in needed if getattr(self, name) is None]):
            raise ValueError(f"a labelled dataset has {', '.join(missing)}")
        return self


Task = Literal["binary", "multiclass"]

Size = tuple[int, int]


class ImagePreprocessing(Document):
    """From the bytes of an image file to one row of a model's input; a field without a value is left out."""

    resize: int | Size | None = Field(
        None, description="Length of the shorter side, or `[height, width]`.", exclude_if=is_absent
    )
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos", "box"] = "bilinear"
    crop: Size | None = Field(None, description="The middle `[height, width]`.", exclude_if=is_absent)
    mean: list[float] | None = Field(None, description="Subtracted, per channel.", exclude_if=is_absent)
    std: list[float] | None = Field(None, description="Divides what is left, per channel.", exclude_if=is_absent)
    scale: float | None = Field(
        None,
        description="Multiplies the pixels; without it they are divided by their largest value.",
        exclude_if=is_absent,
    )
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal[1, 3] = 3
    order: Literal["RGB", "BGR"] = "RGB"
    bit_depth: Literal[8, 16] = 8
    dtype: Literal["float32", "uint8"] = "float32"


class ScoreQuantiles(Document):
    """Scores at some ranks of the guarantee rows."""

    num_rows: int
    room: int = Field(description="How many rows one new group may have; 1 without groups.")
    ranks: list[int]
    scores: list[float]


class GuaranteesSummary(Document):
    """The summary of a model's guarantees in its record; the tables grow with the classes."""

    num_rows: int | None = Field(None, description="How many guarantee rows there were.")
    num_groups: int | None = Field(None, description="Of how many independent groups, if rows had groups.")
    delta: float | None = Field(None, description="The probability with which a promise may fail.")


class Guarantees(Document):
    """All that the guarantee rows allow to promise."""

    class_names: list[str]
    num_rows: int
    num_groups: int | None
    delta: float
    thresholds: list[float] = Field(description="Confidences (M,), ascending; the lowest answers everything.")
    bounds: list[float] = Field(description="Upper bounds (M,) of the error rate at or above each threshold.")
    class_bounds: list[list[float]] = Field(description="The same for each true class, (K, M).")
    quantiles: ScoreQuantiles
    class_quantiles: list[ScoreQuantiles]
    answered_shares: list[float] | None = Field(
        None, description="The share (M,) of the guarantee rows at or above each threshold."
    )


class MeasuredBatch(Document):
    """The largest batch that inspection ran."""

    rows: int
    length: int = Field(description="The longest free dimension of each row; 1 where none is free.")
    seconds: float = Field(description="Of the slowest kind of values.")
    values: str = Field(description="That kind.")


class ServingCost(Document):
    """The cost of rows of a served graph: computed from sizes, and measured once."""

    sizes: Literal["shapes", "bounded", "unknown"] = Field(
        description="`shapes`: all sizes follow from shapes; `bounded`: some count values of a row."
    )
    fixed_bytes: int = 0
    row_bytes: int = 0
    peak_row_bytes: int = Field(0, description="The most bytes that are alive at once, for each further row.")
    powers: dict[str, float] = Field(
        default_factory=dict, description="Free dimension → the power with which the largest tensor grows with it."
    )
    measured: MeasuredBatch | None = None


class OutputSpec(Document):
    """The output that classifies."""

    name: str
    kind: Literal["logits", "probabilities"]


class FeatureSpec(Document):
    """The tensor of penultimate features in the graph."""

    layer: str
    dim: int


class FamiliaritySpec(Document):
    """The score of the output `familiarity`."""

    score: Literal["mahalanobis", "norm"]


class FittedOn(Document):
    """The rows of one dataset that a calibrated model has seen."""

    dataset_id: str
    sha256: str = Field(description="Of the uploaded file.")
    splits: list[str] = Field(description="All that anything in the model was fitted on.")
    network: list[str] = Field(description="Those among them that trained the network itself.")


class ClassPriors(Document):
    """Class priors by name, of which answers are for the default ones; without others these are the shares."""

    shares: dict[str, float] = Field(description="Of the calibration rows.")
    default: dict[str, float] = Field(description="Of answers to which nothing else is said.")


class PriorsInput(Document):
    """The bytes that stand behind a calibrated file where its constant `class_priors` is to be an input."""

    suffix: str = Field(pattern="^([0-9a-f]{2}){1,200}$", description="In hexadecimal.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the file with these bytes.")

    @classmethod
    def of(cls, file: Path, suffix: bytes) -> PriorsInput:
        """Priors input of a file that was just written."""
        with file.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256")
        digest.update(suffix)
        return cls(suffix=suffix.hex(), sha256=digest.hexdigest())


class DecisionThresholds(Document):
    """Thresholds by class name: the largest of probability / threshold decides as often as the uploaded model does."""

    keep: Literal["alarm_rate"] = "alarm_rate"
    thresholds: dict[str, float] = Field(description="For probabilities at the default class priors.")


class ModelProfile(Document):
    """A classifier as it is served."""

    format: str = "onnx"
    preprocessing: ImagePreprocessing | None = None
    inputs: list[TensorSpec]
    output: OutputSpec
    task: Task
    num_classes: int
    class_names: list[str]
    class_names_given: bool = Field(description="False: the names are numbers that stand for the missing ones.")
    positive_class: str | None = None
    features: FeatureSpec
    trainable: bool
    warnings: list[str] = Field(default_factory=list)
    adjustments: list[Notice] = Field(default_factory=list)
    columns: list[str] | None = Field(None, description="Names of the columns of the single input, in order.")
    reading: Reading | None = None
    guarantees: Guarantees | None = None
    familiarity: FamiliaritySpec | None = None
    class_priors: ClassPriors | None = None
    priors_input: PriorsInput | None = Field(None, description="Null where no job has calibrated the model.")
    decisions: DecisionThresholds | None = None
    cost_factor: float | None = Field(None, description="Cost of a prediction, as a multiple of the uploaded model's.")
    cost: ServingCost | None = None
    trained_on: list[FittedOn] = Field(default_factory=list)
