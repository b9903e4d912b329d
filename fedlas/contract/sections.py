"""Sections of a report: confidence, classes, promises, decisions, label noise, and what each part has added."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedlas.contract.base import OPEN, Document, Figure
from fedlas.contract.figures import (
    Accuracy,
    ClassRow,
    ConfidenceGap,
    Correction,
    Estimate,
    MeanConfidence,
    NumRows,
    PositiveClass,
)

PartName = Annotated[Literal["uploaded", "temperature", "post_hoc", "trained", "average"], OPEN]
Sentence = Annotated[str, Field(description="The finding as a sentence.")]
Sentences = Annotated[tuple[str, ...], Field(description="The findings as sentences.")]


class ConfidenceGaps(Document):
    """Mean confidence minus accuracy of a model."""

    test: ConfidenceGap = Field(description="The gap on the test rows.")
    out_of_fold: ConfidenceGap | None = Field(
        description="The gap on the calibration rows, each by a fit without it; null: not known."
    )


class ConfidenceSummary(Document):
    """Mean confidence beside accuracy, and the ECE split by its sign."""

    mean_confidence: MeanConfidence
    accuracy: Accuracy
    over_confidence: Figure = Field(description="The part of the ECE where confidence exceeds accuracy.")
    under_confidence: Figure = Field(description="The part of the ECE where accuracy exceeds confidence.")


class ConfidentSection(Document):
    """The answers with a confidence of at least `threshold`."""

    threshold: float = Field(description="The confidence from which on answers count.")
    num_rows: int = Field(description="The number of answers at or above the threshold.")
    mean_confidence: float | None = Field(description="Mean confidence of these answers.")
    accuracy: float | None = Field(description="Share of these answers that is right.")
    hold: bool = Field(description="Whether they are not shown to be too sure.")
    worst_class: str | None = Field(description="The class to which `excess` belongs; null: all classes.")
    excess: float | None = Field(description="Mean confidence minus the share that is right, where they do not hold.")


class ClassTable(Document):
    """The worst of the classes, worst first."""

    num_classes: int = Field(description="The number of classes of the model.")
    correction: Correction
    rows: tuple[ClassRow, ...] = Field(description="The worst classes, worst first.")


class WorstParts(Document):
    """The worst class and the worst slice, in a sentence each."""

    class_: str = Field(alias="class", description="The worst class, in a sentence.")
    slice: str | None = Field(description="The worst slice, in a sentence; null without slices.")


class BinarySection(Document):
    """The positive class of a two-class problem in the three models."""

    positive_class: str = Field(description="The class to which the probabilities belong.")
    uploaded: PositiveClass = Field(description="The uploaded model as it came.")
    temperature: PositiveClass = Field(description="The uploaded model with a temperature.")
    calibrated: PositiveClass = Field(description="The model that is served.")


class ErrorLevel(Document):
    """A promised error rate, and the threshold that keeps it."""

    level: float = Field(description="The promised share of wrong answers.")
    threshold: float | None = Field(description="The confidence that keeps the promise; null: none does.")
    reachable: float | None = Field(description="The nearest level that can be promised, where this one cannot.")
    answered: Figure = Field(description="Share of the test rows that are answered at the threshold.")
    error_rate: Estimate | None = Field(description="Share of these rows that is wrong.")


class CoverageLevel(Document):
    """A promised coverage of the prediction sets."""

    level: float = Field(description="The promised probability that a set holds the true class.")
    reachable: float | None = Field(description="The nearest level that can be promised, where this one cannot.")
    mean_size: float | None = Field(description="The number of classes of a set, on average.")
    covered: Estimate | None = Field(description="Share of the test rows whose set holds the true class.")


class GuaranteeTable(Document):
    """The promises that the guarantee rows allow."""

    num_rows: int = Field(description="The number of guarantee rows.")
    num_groups: int | None = Field(description="The number of independent groups of rows; null: no groups.")
    delta: float = Field(description="The probability with which each kind of promise may fail.")
    max_error: tuple[ErrorLevel, ...] = Field(description="Thresholds that bound the error rate.")
    coverage: tuple[CoverageLevel, ...] = Field(description="Prediction sets that hold the true class.")


class Answers(Document):
    """The answers with one class, on the test rows."""

    answered: Figure = Field(description="Share of the test rows that are answered with the class.")
    recall: Estimate | None = Field(description="Share of the rows of the class among them.")


class DecisionRow(Document):
    """The decisions for one class."""

    name: str = Field(description="The class under its own name.")
    num_rows: int = Field(description="The number of test rows that have the class.")
    threshold: Figure = Field(description="Threshold of its probability, at the shares of the calibration rows.")
    uploaded: Answers = Field(description="Answers of the uploaded model.")
    argmax: Answers = Field(description="Answers of the served model by its most probable class.")
    thresholds: Answers = Field(description="Answers of the served model with the thresholds.")


class DecisionTable(Document):
    """The decisions of the served model with thresholds."""

    keep: str = Field(description="The property of the uploaded model that the thresholds keep.")
    num_classes: int = Field(description="The number of classes of the model.")
    accuracy: Figure = Field(description="Accuracy of the decisions with the thresholds.")
    rows: tuple[DecisionRow, ...] = Field(description="The classes whose answers changed most.")


class PriorsSection(Document):
    """Class priors by name; the report judges at the shares of the calibration rows all the same."""

    shifted: bool = Field(description="Whether the priors of the answers differ from the shares.")
    shares: dict[str, Figure] = Field(description="Class → its share of the calibration rows.")
    default: dict[str, Figure] = Field(description="Class → the prior for which answers are.")


class NoiseLevel(Document):
    """The verdicts under a share of wrong labels."""

    share: float = Field(description="The share of labels that are wrong.")
    rows: int = Field(description="The number of labels that were changed.")
    verdicts: dict[str, float] = Field(description="Verdict → the share of draws that led to it.")
    same: int = Field(description="The number of draws with the verdict on the labels as they are.")


class LabelNoise(Document):
    """The verdict on the labels as they are, and under each share of wrong ones."""

    verdict: str = Field(description="The verdict on the labels as they are.")
    draws: int = Field(description="The number of draws for each share.")
    levels: tuple[NoiseLevel, ...] = Field(description="One level for each share of wrong labels.")
    sentences: Sentences


class NormDiagnostic(Document):
    """The relation of the feature norm to being right."""

    auroc: Estimate = Field(description="AUROC of the feature norm for being right.")
    useful: bool = Field(description="Whether the norm is shown to be useful.")


class SmoothingDiagnostic(Document):
    """The mean smoothing of right and of wrong rows; null of fewer than two rows."""

    right: Estimate | None = Field(description="Mean smoothing of rows that are right.")
    wrong: Estimate | None = Field(description="Mean smoothing of rows that are wrong.")
    wrong_minus_right: Estimate | None = Field(description="The difference of the two means.")


class GateDiagnostic(Document):
    """The signs of the smoothing."""

    positive: Estimate = Field(description="Share of rows with the sign +1.")
    flipped: Estimate | None = Field(description="Share of rows whose sign training has flipped; null: not known.")


class Diagnostics(Document):
    """Norms, smoothing and signs on right and on wrong rows; null where nothing can be computed."""

    num_rows: NumRows
    num_right: int = Field(description="The number of rows that are answered right.")
    feature_norm: NormDiagnostic | None = Field(description="How well the feature norm tells right from wrong.")
    epsilon: SmoothingDiagnostic | None = Field(description="Smoothing on right and on wrong rows.")
    gate: GateDiagnostic | None = Field(description="Signs of the smoothing of the rows.")
    sentences: Sentences


class PartScore(Document):
    """The mean score of a part."""

    value: Figure = Field(description="The mean score of the part.")
    change: Estimate | None = Field(
        description="Mean paired change from the part before it, negative is better; null of the first part."
    )


class AddedPart(Document):
    """One part with its scores; null where it was not scored on these rows."""

    name: PartName = Field(
        description="The part that was added: `uploaded`, `temperature`, `post_hoc`, `trained` or `average`."
    )
    served: bool = Field(description="Whether this part is what is served.")
    out_of_fold_nll: PartScore | None = Field(description="NLL of the calibration rows, each by a fit without it.")
    test_nll: PartScore | None = Field(description="Mean NLL of the test rows.")
    test_brier: PartScore | None = Field(description="Mean Brier score of the test rows.")


class AddedParts(Document):
    """The parts that were tried, each compared with the one before it."""

    num_calibration_rows: int = Field(description="The number of calibration rows.")
    rows: tuple[AddedPart, ...] = Field(description="The parts, one after the other.")
    sentence: Sentence


class MethodDifference(Document):
    """NLL of FedLAS minus that of another loss, out of fold."""

    against: Annotated[Literal["label_smoothing", "cross_entropy"], OPEN] = Field(
        description="The loss with which FedLAS is compared."
    )
    nll: Estimate = Field(description="The mean difference; negative where FedLAS is better.")
    rows_better: int = Field(description="The number of rows with a lower NLL.")
    rows_worse: int = Field(description="The number of rows with a higher NLL.")
    finding: Annotated[Literal["better", "no_difference_shown", "worse"], OPEN] = Field(
        description="`better` or `worse` where the interval excludes 0, else `no_difference_shown`."
    )


class LossComparison(Document):
    """The better of FedLAS and FedLAS+ against the other losses."""

    method: Annotated[Literal["fedlas", "fedlas_plus"], OPEN] | None = Field(
        description="The better of FedLAS and FedLAS+; null: neither was trained."
    )
    num_rows: NumRows
    differences: tuple[MethodDifference, ...] = Field(description="One difference for each other loss.")
    sentence: Sentence
