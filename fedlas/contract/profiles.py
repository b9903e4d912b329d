"""Profiles: the description of a model's or dataset's file, as inspection or calibration found it, and its notices.

`fedlas.preprocessing.Preprocessing` checks the preprocessing and carries it out; `fedlas.guarantees.Guarantees`
computes the guarantees and reads them with `from_dict`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from fedlas.contract.base import OPEN, Document, JsonObject, Sha256, is_absent
from fedlas.contract.scores import ScoreServing

Severity = Literal["info", "warning", "error"]
SeenByModel = Literal["no", "train_split", "unknown"]
Purpose = Literal["fit", "predict"]
Missing = Literal["reject", "nan"]
Task = Literal["binary", "multiclass"]
ScoreKind = Literal["logits", "probabilities"]
CalibratorInput = Literal["logits", "probabilities", "score", "signals"]
Size = tuple[int, int]

_SUM_TOLERANCE = 1e-6
#: The property of a calibrated file's metadata from which the file is served without its record.
FILE_PROFILE = "fedlas_profile"
_NOT_IN_FILE: dict[str, Any] = {
    **dict.fromkeys(
        ("warnings", "adjustments", "guarantees", "priors_input", "cost_factor", "answer_times", "trained_on"), True
    ),
    "cost": {"measured": True},
}


class Notice(Document):
    """A finding or a change on the way, with its evidence, for the owner of a model or dataset."""

    code: str = Field(description="A stable code for machines.")
    message: str = Field(description="The finding or change, as a sentence.")
    evidence: JsonObject = Field(default_factory=dict, description="The figures and names behind the message.")
    severity: Annotated[Severity, OPEN] = Field(
        "warning",
        description="`info`: a change made for you; `warning`: it looks wrong; `error`: it is certainly wrong, and the "
        "job fails with this code unless `accept_warnings` names it.",
    )


class TensorSpec(Document):
    """One input of a model or dataset."""

    name: str = Field(description="The name of the input, as requests give it.")
    dtype: str = Field(description="The type of its values, in NumPy's words: `float32`.")
    shape: list[int | str] = Field(description="The first dimension is the batch, `N`; other names are free sizes.")


class Reading(Document):
    """The treatment of missing numbers and of short rows."""

    padding: dict[str, int | float] | None = Field(None, description="Input → the number that fills its shorter rows.")
    missing: Annotated[Missing, OPEN] = Field(
        "reject", description="`nan`: numbers may be missing (null in JSON); `reject`: they may not."
    )


class DatasetRoles(Document):
    """The columns or arrays that play a role; a role without a column is left out."""

    label: str | None = Field(None, exclude_if=is_absent, description="The column with the class of each row.")
    split: str | None = Field(None, exclude_if=is_absent, description="The split of each row: `train`, `test`, ….")
    group: str | None = Field(
        None, exclude_if=is_absent, description="Rows of one group, such as a patient, stay within one split."
    )
    slices: list[str] | None = Field(
        None, exclude_if=is_absent, description="Columns by whose values the report breaks its figures down."
    )
    weight: str | None = Field(None, exclude_if=is_absent, description="Sampling weights, which all figures use.")
    time: str | None = Field(None, exclude_if=is_absent, description="The order of rows by which splits are drawn.")
    id: str | None = Field(None, exclude_if=is_absent, description="Names of rows, which batch predictions repeat.")


class SplitCounts(Document):
    """The number of rows in each split, fixed once."""

    train: int = Field(0, description="Rows that train the network.")
    calibration: int = Field(0, description="Rows that choose a candidate and fit its calibrator.")
    guarantee: int = Field(0, description="Rows on which promises rest.")
    test: int = Field(0, description="Rows that judge the result.")


class SplitShares(Document):
    """The shares of the rows that drawn splits get; they sum to one, and a split that is not named gets none."""

    train: float = Field(0, ge=0, le=1, description="Share of rows that train the network.")
    calibration: float = Field(ge=0.01, le=1, description="Share of rows that choose and calibrate.")
    guarantee: float = Field(0, ge=0, le=1, description="Share of rows on which promises rest.")
    test: float = Field(ge=0.01, le=1, description="Share of rows that judge the result.")

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = math.fsum((self.train, self.calibration, self.guarantee, self.test))
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"the shares must sum to 1, these sum to {total:g}")
        return self


class ExampleRow(Document):
    """A row of a dataset as one would type it; what is no finite number is null."""

    row: int = Field(description="The number of the row in the owner's file, from 0.")
    label: str | None = Field(None, description="The class of the row.")
    inputs: dict[str, JsonValue] = Field(description="Input → its values in this row.")


class DatasetProfile(Document):
    """The description of a dataset, as its prepared copy holds it."""

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
    example: ExampleRow | None = None

    @model_validator(mode="after")
    def _labels_are_told(self) -> Self:
        needed = ("num_classes", "class_names", "class_counts", "seen_by_model", "splits")
        if self.labelled and (missing := [name for name in needed if getattr(self, name) is None]):
            raise ValueError(f"a labelled dataset has {', '.join(missing)}")
        return self


class ImagePreprocessing(Document):
    """The steps from the bytes of an image file to one row of a model's input; a step without a value is left out."""

    resize: int | Size | None = Field(
        None, description="Length of the shorter side, or `[height, width]`, in pixels.", exclude_if=is_absent
    )
    interpolation: Annotated[Literal["bilinear", "bicubic", "nearest", "lanczos", "box"], OPEN] = Field(
        "bilinear", description="The filter with which images are resized."
    )
    crop: Size | None = Field(
        None, description="The middle `[height, width]` of the resized image, in pixels.", exclude_if=is_absent
    )
    mean: list[float] | None = Field(None, description="Subtracted from the scaled pixels.", exclude_if=is_absent)
    std: list[float] | None = Field(None, description="Divides the result, for each channel.", exclude_if=is_absent)
    scale: float | None = Field(
        None,
        description="Multiplies the pixels; without it they are divided by their largest value.",
        exclude_if=is_absent,
    )
    layout: Annotated[Literal["NCHW", "NHWC"], OPEN] = Field("NCHW", description="The place of the channels in a row.")
    channels: Literal[1, 3] = Field(3, description="The channels of the input: 1 is grey, 3 is colour.")
    order: Annotated[Literal["RGB", "BGR"], OPEN] = Field("RGB", description="The order of three channels.")
    bit_depth: Literal[8, 16] = Field(8, description="Bits of each channel in the files.")
    dtype: Annotated[Literal["float32", "uint8"], OPEN] = Field("float32", description="The type of the model's input.")


class ScoreQuantiles(Document):
    """Scores at some ranks of the guarantee rows."""

    num_rows: int
    room: int = Field(description="Rows that one new group may have; 1 without groups.")
    ranks: list[int]
    scores: list[float]


class GuaranteesSummary(Document):
    """The summary of a model's guarantees in its record; the tables grow with the classes."""

    num_rows: int | None = Field(None, description="The number of guarantee rows.")
    num_groups: int | None = Field(None, description="The number of independent groups among them; null: no groups.")
    delta: float | None = Field(None, description="The probability with which a promise may fail.")


class ModelPromise(Document):
    """The confidence from which on a model's answers keep a share of errors."""

    max_error: float = Field(description="At most this share of the answered rows is wrong.")
    confidence: float = Field(description="The probability with which it is kept.")
    threshold: float = Field(description="The confidence from which on rows are answered.")
    answered_share: float | None = Field(None, description="The share of the guarantee rows that it answers.")

    @property
    def sentence(self) -> str:
        """The promise in words."""
        share = self.answered_share
        covered = "" if share is None else f"; that is {100 * share:.3g} % of rows like these"
        return (
            f"Answers with a confidence of {self.threshold:.6g} or above need no review: at most "
            f"{100 * self.max_error:.4g} % of them are wrong ({100 * self.confidence:.4g} % confidence)"
            f"{covered}."
        )


class GuaranteesDocument(Document):
    """The tables from which guarantees are read; `fedlas.guarantees.Guarantees` computes them."""

    class_names: list[str]
    num_rows: int
    num_groups: int | None
    delta: float
    thresholds: list[float] = Field(description="Confidences (M,), ascending; the lowest answers everything.")
    bounds: list[float] = Field(description="Upper bounds (M,) of the error rate at or above each threshold.")
    class_bounds: list[list[float]] = Field(description="Such bounds for each true class, (K, M).")
    quantiles: ScoreQuantiles
    class_quantiles: list[ScoreQuantiles]
    answered_shares: list[float] | None = Field(
        None, description="The share (M,) of the guarantee rows at or above each threshold."
    )

    def promise(self, max_error: float = 0.05) -> ModelPromise | None:
        """The lowest threshold that keeps this share of errors; None where none does."""
        shares: list[float] | list[None] = self.answered_shares or [None] * len(self.thresholds)
        kept = (
            (at, share)
            for at, bound, share in zip(self.thresholds, self.bounds, shares, strict=True)
            if bound <= max_error
        )
        if (found := next(kept, None)) is None:
            return None
        return ModelPromise(max_error=max_error, confidence=1 - self.delta, threshold=found[0], answered_share=found[1])


class MeasuredBatch(Document):
    """The largest batch that inspection ran."""

    rows: int
    length: int = Field(description="The longest free dimension of each row; 1 where none is free.")
    seconds: float = Field(description="Seconds that the slowest kind of values took.")
    values: str = Field(description="The slowest kind of values.")


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


class AnswerTime(Document):
    """Microseconds of a batch in plain ONNX Runtime on one thread: the file, and in turn the uploaded network."""

    rows: int = Field(description="Rows of the batch: 1 or 64.")
    us: float = Field(description="Time of the calibrated file.")
    uploaded_us: float = Field(description="Time of the uploaded network.")


class OutputSpec(Document):
    """The output that classifies."""

    name: str = Field(description="The name of the output tensor.")
    kind: Annotated[ScoreKind, OPEN] = Field(description="The scores that it holds: `logits` or `probabilities`.")


class FeatureSpec(Document):
    """The tensor of penultimate features in the graph."""

    layer: str = Field(description="The name of the tensor in the graph.")
    dim: int = Field(description="The number of features of a row.")


class TypicalitySpec(Document):
    """The score of the output `typicality`."""

    score: Literal["mahalanobis", "norm"]


class FittedOn(Document):
    """The rows of one dataset that a calibrated model has seen."""

    dataset_id: str = Field(description="The id of the dataset, which may be deleted meanwhile.")
    sha256: str = Field(description="SHA-256 of the uploaded file.")
    splits: list[str] = Field(description="The splits on which anything in the model was fitted.")
    network: list[str] = Field(description="The splits among them that trained the network itself.")


class ClassPriors(Document):
    """Class priors by name: those that a calibrator has learnt, and those that its answers are for."""

    shares: dict[str, float] = Field(description="Class → its share of the calibration rows.")
    default: dict[str, float] = Field(description="Class → the prior of answers whose request names none.")


class PriorsInput(Document):
    """The bytes that stand behind a calibrated file where its constant `class_priors` is to be an input."""

    suffix: str = Field(pattern="^([0-9a-f]{2}){1,200}$", description="The bytes, in hexadecimal.")
    sha256: Sha256 = Field(description="SHA-256 of the file with these bytes.")

    @classmethod
    def of(cls, file: Path, suffix: bytes) -> PriorsInput:
        """Priors input of a file that was just written."""
        with file.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256")
        digest.update(suffix)
        return cls(suffix=suffix.hex(), sha256=digest.hexdigest())


class DecisionThresholds(Document):
    """Thresholds by class name: the largest of probability / threshold decides as often as the uploaded model does."""

    keep: Annotated[Literal["alarm_rate"], OPEN] = Field(
        "alarm_rate", description="The property of the uploaded model that the thresholds keep."
    )
    thresholds: dict[str, float] = Field(description="Class → threshold of its probability at the default priors.")


class ModelProfile(Document):
    """The description of a classifier, as it is served."""

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
    columns: list[str] | None = None
    reading: Reading | None = None
    guarantees: GuaranteesDocument | None = None
    typicality: TypicalitySpec | None = None
    class_priors: ClassPriors | None = None
    priors_input: PriorsInput | None = Field(None, description="Null where no job has calibrated the model.")
    decisions: DecisionThresholds | None = None
    cost_factor: float | None = None
    answer_times: list[AnswerTime] = Field(default_factory=list)
    cost: ServingCost | None = None
    scores: ScoreServing | None = Field(None, description="The promise and band of one score or several signals.")
    trained_on: list[FittedOn] = Field(default_factory=list)

    def in_file(self) -> str:
        """JSON for the property `FILE_PROFILE`, without what times decide, or only a record can know.

        Nothing that was measured is in it, so that a job that is run again writes the same bytes; the guarantees are a
        property of their own.
        """
        return self.model_dump_json(exclude_unset=True, exclude=_NOT_IN_FILE)
