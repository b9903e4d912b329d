"""The report: all evidence of one job, as `GET /v1/jobs/{id}/report` answers it and `report.json` holds it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from fedlas.contract.base import OPEN, Document, Figure
from fedlas.contract.figures import (
    ByModel,
    CalibrationTest,
    Estimates,
    High,
    Indexed,
    Low,
    NumRows,
    Reliability,
    RiskCoverage,
    SliceTable,
)
from fedlas.contract.profiles import ModelPromise, Notice, SeenByModel
from fedlas.contract.records import BEATS_SIMPLER, SIGNIFICANT, Served, ServedKind
from fedlas.contract.sections import (
    AddedParts,
    BinarySection,
    ClassTable,
    ConfidenceGaps,
    ConfidenceSummary,
    ConfidentSection,
    DecisionTable,
    Diagnostics,
    GuaranteeTable,
    LabelNoise,
    LossComparison,
    PriorsSection,
    Sentences,
    WorstParts,
)

Finalist = Annotated[Literal["same_labels", "post_hoc", "trained", "average"], OPEN]
FinalistName = Annotated[
    Finalist, Field(description="The finalist that was compared: `same_labels`, `post_hoc`, `trained` or `average`.")
]
PValue = Annotated[Figure, Field(description="The p-value of the one-sided test.")]
OptionalFigure = Annotated[float | None, Field()]


class FittedCalibrator(Document):
    """A calibrator with its parameters, whose names and shapes are its own."""

    name: str = Field(description="The name of the calibrator, such as `temperature`.")
    parameters: dict[str, JsonValue] = Field(description="The fitted parameters by name.")


class CandidateSummary(Document):
    """One candidate of the race on the calibration rows."""

    name: str = Field(description="The name of the candidate.")
    method: str = Field(description="The method of the candidate, such as `fedlas`.")
    hyperparameters: dict[str, JsonValue] = Field(description="Hyperparameters as they were tried.")
    scope: str = Field(description="`all`, `head`, or `none` where nothing is trained.")
    status: str = Field(
        description="`finished`, `skipped`, `eliminated` (not among the best of the first folds), `dropped`, "
        "`diverged`."
    )
    reason: str = Field(description="The reason of its status, as a sentence.")
    calibration: dict[str, float | None] | None = Field(description="Metric → score; null: not trained to the end.")
    calibrator: FittedCalibrator | None = Field(description="The calibrator fitted on its answers; null: none.")


class Named(Document):
    """A model or dataset, as far as it has a name, an id, or a file whose digest is known."""

    name: str | None = Field(None, description="The name of the model or dataset.")
    id: str | None = Field(None, description="The id of the record; null where there is none.")
    sha256: str | None = Field(None, description="SHA-256 of the file; null where there is none.")


class Subject(Document):
    """Subject of a report; a field is null where there is no such thing, as of a job in a notebook."""

    model: Named | None = Field(None, description="The uploaded model that was calibrated.")
    dataset: Named | None = Field(None, description="The dataset with which it was calibrated.")
    job_id: str | None = Field(None, description="The id of the job, `job_…`.")
    # Never the time of writing: a job that is repeated ends with the same bytes.
    created_at: str | None = Field(None, description="The time of the request (RFC 3339, UTC).")

    @property
    def title(self) -> str | None:
        one = self.model or self.dataset
        return None if one is None else one.name or one.id


class ScoreDifference(Document):
    """Mean score difference with the interval that matches the one-sided test."""

    against: str = Field(description="The model with which it is compared.")
    value: Figure = Field(description="The mean difference; negative is better.")
    low: Low
    high: High
    p_value: PValue


class GateClaim(Document):
    """A claim that a finalist beats everything in `comparisons`: the uploaded model, or all simpler finalists."""

    finalist: FinalistName
    significant: bool = Field(description="Whether test rows show that it beats all of them.")
    p_value: PValue
    level: float = Field(description="The level that Holm's procedure allowed the claim.")
    comparisons: tuple[ScoreDifference, ...] = Field(description="The comparisons with everything that it is to beat.")
    rows_needed: int | None = Field(
        None,
        description="Test rows that would show the differences with 80 % power, capped at 1,000,001 for more than a "
        "million; null: shown, or a difference has the wrong sign.",
    )


class GateGuard(Document):
    """A property that a served finalist may not worsen beyond a limit."""

    name: str = Field(description="The property that is guarded.")
    finalist: FinalistName
    passed: bool = Field(description="Whether it is not worsened beyond the limit.")
    value: Figure = Field(description="The change of the property.")
    limit: Figure = Field(description="The largest loss that is allowed.")
    low: float | None = Field(None, description="The lower end of the interval, where there is one.")
    high: float | None = Field(None, description="The upper end of the interval, where there is one.")
    class_index: int | None = Field(None, description="The index of the class to which the figure belongs.")
    chance: float | None = Field(None, description="The one-sided p-value of the loss.")


class GateVeto(Document):
    """A finalist that gives way, because a guard failed or test rows show it to be worse than another."""

    finalist: FinalistName
    reason: str = Field(description="The name of the guard that failed, or `worse`.")
    value: Figure = Field(description="The figure of the guard, or the mean rise of the score.")
    against: str | None = Field(None, description="The model than which it is worse.")
    p_value: float | None = Field(None, description="The one-sided p-value of the rise.")
    score: str | None = Field(None, description="The proper score that rose.")


class GateVerdict(Document):
    """The verdict on the finalists: what is served, and what is proven."""

    verdict: ServedKind
    score: str = Field(description="The proper score that decides.")
    claims: tuple[GateClaim, ...] = Field(description="The claims that test rows had to show.")
    guards: tuple[GateGuard, ...] = Field(description="The properties that may not get worse.")
    sentences: Sentences
    looks_before: int = Field(0, description="Earlier looks at the same test rows.")
    level: float | None = Field(None, description="The level that this look could spend.")
    order: tuple[Finalist, ...] = Field(
        (), description="Finalists that may be served, best first by calibration rows; the uploaded model comes last."
    )
    vetoes: tuple[GateVeto, ...] = Field((), description="The finalists that gave way, and why.")
    finalist: Finalist | None = Field(None, description="The finalist that is served; null: the uploaded model.")
    significant: bool | None = Field(None, description=SIGNIFICANT)
    beats_simpler: bool | None = Field(None, description=BEATS_SIMPLER)
    serves: Annotated[Served, OPEN] = Field("uploaded", description="`calibrated`, or the `uploaded` model as it came.")

    @property
    def served_claims(self) -> tuple[GateClaim, ...]:
        """Claims on the served finalist: against the uploaded model, then of a fine-tuned one against simpler ones."""
        return tuple(claim for claim in self.claims if claim.finalist == self.finalist)

    @model_validator(mode="after")
    def _outcome_follows(self) -> GateVerdict:
        shown = [claim.significant for claim in self.served_claims]
        outcome = {
            "serves": "calibrated" if self.verdict in ("trained", "post_hoc") else "uploaded",
            "significant": any(shown[:1]),
            "beats_simpler": all(shown) if len(shown) > 1 else None,
        }
        self.__dict__.update(outcome)
        self.__pydantic_fields_set__.update(outcome)
        return self


class RuntimeRounding(Document):
    """The largest difference in a probability between forms of one graph; null where ONNX Runtime runs no such form."""

    num_rows: NumRows
    unoptimised: float | None = Field(description="Between the graph with optimisations and without.")
    double_precision: float | None = Field(description="Between the file and the graph in float64.")

    @property
    def largest(self) -> float:
        return max(self.unoptimised or 0.0, self.double_precision or 0.0)


#: More changed decisions than this share, or a larger change of a mean score, is another model.
MAX_CHANGED_DECISIONS = 0.01
MAX_NLL_CHANGE = 1e-3
MAX_BRIER_CHANGE = 1e-3


class Parity(Document):
    """The distance of a file's probabilities, as ONNX Runtime computes them, from the network's that was judged."""

    num_rows: NumRows
    max_probability_error: float = Field(description="The largest change of a probability.")
    limit: float = Field(description="The largest change that was allowed.")
    decisions_changed: int = Field(description="The number of rows whose most probable class is another one.")
    nll_change: float | None = Field(None, description="Mean NLL of the file minus the network's.")
    brier_change: float | None = Field(None, description="Mean Brier score of the file minus the network's.")
    rounding: RuntimeRounding | None = Field(
        None, description="Differences of ONNX Runtime itself; null where the file is so near that none was computed."
    )

    @property
    def passed(self) -> bool:
        """True where the difference is within the limit; an explained one may change a few decisions and no more."""
        if not self.max_probability_error <= self.limit:
            return False
        if self.rounding is None:
            return True
        few = self.decisions_changed <= max(1.0, MAX_CHANGED_DECISIONS * self.num_rows)
        nll, brier = abs(self.nll_change or 0.0), abs(self.brier_change or 0.0)
        return few and nll <= MAX_NLL_CHANGE and brier <= MAX_BRIER_CHANGE

    def __str__(self) -> str:
        """Differences of the file in words.

        >>> print(Parity(num_rows=256, max_probability_error=3.7e-4, limit=1e-5, decisions_changed=0))
        3.7e-04 in a probability, 0 of 256 decisions
        """
        differences = (
            f"{self.max_probability_error:.1e} in a probability, {self.decisions_changed} of {self.num_rows} decisions"
        )
        if self.nll_change is None or self.brier_change is None:
            return differences
        return f"{differences}, {self.nll_change:+.1e} in mean NLL and {self.brier_change:+.1e} in mean Brier score"

    @property
    def sentence(self) -> str:
        """Differences of the file, and ONNX Runtime's own where those were computed."""
        difference = f"The served file differs from what was judged by {self}"
        if self.rounding is None:
            return f"{difference}."
        return f"{difference}: float32's rounding, by which ONNX Runtime itself differs by {self.rounding.largest:.1e}."


class GaveWay(Document):
    """A finalist that could not be written as a file that computes what was judged; the next was served."""

    finalist: Annotated[Literal["same_labels", "post_hoc", "trained", "average", "uploaded"], OPEN] = Field(
        description="The finalist that gave way."
    )
    code: str = Field(description="The code of the error: `parity`, `too_large_for_onnx`, ….")
    reason: str = Field(description="The message of the error, as a sentence.")


class WrittenFile(Document):
    """The proof of the served file, and the finalists that gave way."""

    parity: Parity | None = Field(
        description="The distance of the file from the network; null: the upload is served as it came."
    )
    gave_way: tuple[GaveWay, ...] = Field((), description="The finalists that could not be written.")


class EvaluationLedger(Document):
    """The number of earlier looks at the same test rows."""

    before: int = Field(description="Earlier looks at the same test rows.")


class Differences(Indexed):
    """Metrics of the served model minus those of another, paired by row."""

    calibrated_minus_uploaded: Estimates = Field(description="The served model minus the uploaded one.")
    calibrated_minus_temperature: Estimates = Field(
        description="The served model minus the uploaded one with a temperature."
    )


class Report(Document):
    """The report of a job: all its evidence."""

    promise: ModelPromise | None = Field(
        None, description="The confidence from which on at most 5 % of the answers are wrong; null where none keeps it."
    )
    subject: Subject | None = Field(description="The model, the dataset and the job of the report.")
    verdict: ServedKind
    serves: Annotated[Served, OPEN] = Field(description="`calibrated`, or the `uploaded` model as it came.")
    significant: bool | None = Field(description=SIGNIFICANT)
    beats_simpler: bool | None = Field(None, description=BEATS_SIMPLER)
    summary: tuple[str, ...] = Field(
        description="The outcome in sentences; the two of `advice` come first, then the promise."
    )
    advice: tuple[str, ...] = Field(
        description="The served model with its confidence and how often that is right; then the next step."
    )
    warnings: tuple[str, ...] = Field(
        description="The messages of `notices`, then doubts about the test rows, as sentences."
    )
    notices: tuple[Notice, ...] = Field(description="Findings that look wrong, with their evidence.")
    adjustments: tuple[Notice, ...] = Field(description="Changes that were made for you, each with its evidence.")
    notes: tuple[str, ...] = Field(description="Further facts, such as a budget that ended.")
    metrics: ByModel[Estimates] = Field(description="All metrics of the three models.")
    differences: Differences = Field(description="Differences of metrics, paired by row.")
    confidence_gap: ByModel[ConfidenceGaps] = Field(description="Mean confidence minus accuracy of each model.")
    confidence: ByModel[ConfidenceSummary] = Field(description="Mean confidence beside accuracy of each model.")
    confident_answers: ByModel[ConfidentSection] = Field(
        description="Sure answers against the share of them that is right."
    )
    calibration_test: ByModel[CalibrationTest] = Field(
        description="A test whether confidences are right but for chance."
    )
    risk_coverage: ByModel[RiskCoverage] = Field(description="Error rate by the share of rows that is answered.")
    reliability: ByModel[Reliability] = Field(description="Data of the reliability diagram.")
    num_test_rows: int = Field(description="The number of test rows behind all figures.")
    num_groups: int | None = Field(description="The number of independent groups of test rows; null: no groups.")
    num_classes: int = Field(description="The number of classes of the model.")
    confidence_level: float = Field(description="Confidence level of the intervals.")
    classes: ClassTable = Field(description="The worst classes of the served model.")
    slices: SliceTable | None = Field(description="The worst slices of the served model; null without slices.")
    binary: BinarySection | None = Field(description="The positive class, where there are two classes.")
    gate: GateVerdict = Field(description="The verdict with its claims, guards and vetoes.")
    looks: EvaluationLedger | None = Field(description="Earlier jobs that used the same test rows; null: not counted.")
    guarantees: GuaranteeTable | None = Field(
        description="Promises of `max_error` and `coverage`; null where the dataset has no `guarantee` rows."
    )
    decisions: DecisionTable | None = Field(description="Answers of each class with thresholds.")
    class_priors: PriorsSection | None = Field(
        description="Class shares and the priors of answers; null: no job has asked for others."
    )
    label_noise: LabelNoise | None = Field(description="The verdict under labels some of which are wrong.")
    signs: Diagnostics | None = Field(
        description="Diagnostics of the network: feature norms and smoothing before and after training."
    )
    parts: AddedParts | None = Field(description="The gain of each step: temperature, calibrators, training.")
    loss_comparison: LossComparison | None = Field(
        description="FedLAS against other losses; null without out-of-fold scores."
    )
    trained_rows: dict[str, int] | None = Field(
        description="Split → rows that trained the served network; null: it was not trained."
    )
    candidates: tuple[CandidateSummary, ...] = Field(description="All candidates that were tried.")
    recipe: dict[str, Any] = Field(description="The request, the winner and its calibrator: enough to repeat the job.")
    recipe_in_words: tuple[str, ...] = Field(description="The recipe of the job as sentences.")
    seed: int = Field(description="The seed of all random draws.")
    seen_by_model: Annotated[SeenByModel, OPEN] | None = Field(
        description="The rows that the uploaded model was trained on."
    )
    duplicates: dict[str, int] | None = Field(description="Split → test rows whose inputs occur there too.")
    digests: dict[str, str] = Field(description="SHA-256 of the files that went in and came out.")
    versions: dict[str, str] = Field(description="Versions of the libraries.")
    machine: dict[str, Any] = Field(description="The machine on which the job ran.")
    worst: WorstParts = Field(description="The worst class and the worst slice.")
    written_file: WrittenFile | None = Field(description="How near the served file is to what was judged.")

    def as_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""
        return self.model_dump(mode="json")
