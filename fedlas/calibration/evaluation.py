"""The evaluation of a calibration: test rows judge its finalists once, and its report is about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibrators import Calibrator, Identity, ShrunkenTemperature, softmax
from fedlas.contract.report import GateVerdict, Report
from fedlas.contract.requests import GateOptions, parse_budget
from fedlas.contract.sections import LabelNoise
from fedlas.data import Dataset
from fedlas.data.dataset import Floats, Integers
from fedlas.deployment import Deployment, priors_of
from fedlas.errors import BadDataset, Mismatch
from fedlas.gate.gate import checked_finalists, judge, verdict_alone
from fedlas.gate.guards import JudgedRows, JudgementOptions
from fedlas.guarantees import Guarantees
from fedlas.race.results import FEW_ROWS, CandidateResult, Finalist
from fedlas.report import Evidence, build_report
from fedlas.report.diagnostics import sensitivity

#: Wrong labels are drawn so often at the least, and in all draws for so many rows at the most.
_MIN_DRAWS = 3
_JUDGED_ROWS = 200_000


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration.

    Attributes:
        method: `auto`, `post_hoc`, `temperature`, or a loss of `fedlas.race.METHODS`; of scores `auto` or a name of
            `fedlas.calibrators.CALIBRATORS`.
        hyperparameters: `auto` or a fixed number each, as `fedlas.race.make_candidates` takes them.
        budget: the time that all of it takes at most: minutes, a text such as `90s`, `30m` or `2h`, or a timedelta.
        max_candidates: candidates that the race tries at most.
        max_cost_factor: how much dearer than the uploaded network an answer of the calibrated one may be; `auto` allows
            averages of small networks.
        expected_accuracy: of the uploaded network on calibration rows; one that misses it by more than 0.05, either
            way, is an error.
        gate: the rule that decides which finalist is served.
        accept_warnings: codes of notices that would end the calibration, and shall not.
        evaluations_before: how often these test rows have judged before.
        seed: of everything that is drawn.
        positive_class: one of the two class names.
        class_priors: by class name, those that the served answers are for; the shares of the calibration rows unless
            they are given. What is judged and promised is of the rows as they are.
        noise_draws: how often labels are drawn for each share of wrong ones; less often where a judgement takes long.
        num_resamples: of every interval of the report.

    Raises:
        ValueError: the budget is none.
    """

    method: str = "auto"
    hyperparameters: Mapping[str, str | float] = field(default_factory=dict)
    budget: str | float | timedelta = 30
    max_candidates: int = 16
    max_cost_factor: float | Literal["auto"] = "auto"
    expected_accuracy: float | None = None
    gate: GateOptions = field(default_factory=GateOptions)
    accept_warnings: Sequence[str] = ()
    evaluations_before: int = 0
    seed: int = 0
    positive_class: str | None = None
    class_priors: Mapping[str, float] | None = None
    noise_draws: int = 20
    num_resamples: int = 1000

    def __post_init__(self) -> None:
        parse_budget(self.budget)

    @property
    def budget_seconds(self) -> float:
        """The budget in seconds."""
        return 60 * parse_budget(self.budget)


@dataclass(frozen=True)
class Evaluation:
    """The test rows of a dataset, and what the finalists answer on them.

    Attributes:
        probs: probabilities (N, K) by finalist: `uploaded`, `temperature`, `post_hoc`, and where they were named
            `same_labels`, `trained` and `average`.
    """

    dataset: Dataset
    probs: Mapping[str, Floats]
    options: CalibrationOptions

    @property
    def targets(self) -> Integers:
        """The class indices of the test rows (N,)."""
        return self.dataset.targets[self.dataset.rows("test")]

    def judge(self) -> GateVerdict:
        return judge(
            self.probs,
            self.targets,
            JudgementOptions(self.options.gate, self.options.seed),
            groups=self.dataset.groups_of("test"),
            provenance=self.dataset.seen_by_model,
            evaluations_before=self.options.evaluations_before,
            class_names=self.dataset.class_names,
        )

    def evidence(self, verdict: GateVerdict, served: str) -> Evidence:
        """Evidence of the test rows, with the finalist that is to be served; the caller adds what it knows besides."""
        rows = self.dataset.rows("test")
        return Evidence(
            gate=verdict,
            uploaded=self.probs["uploaded"],
            temperature=self.probs["temperature"],
            calibrated=self.probs[served],
            finalists=self.probs,
            targets=self.targets,
            groups=self.dataset.groups_of("test"),
            class_names=self.dataset.class_names,
            positive_class=self.options.positive_class,
            slices={name: column[rows] for name, column in self.dataset.slices.items()},
            label_noise=self._label_noise() if self.dataset.seen_by_model != "unknown" else None,
            evaluations_before=self.options.evaluations_before,
            seen_by_model=self.dataset.seen_by_model,
            seed=self.options.seed,
        )

    def report(self, evidence: Evidence) -> Report:
        return build_report(
            evidence, num_resamples=self.options.num_resamples, confidence_level=self.options.gate.confidence_level
        )

    def _label_noise(self) -> LabelNoise:
        probs, rows = checked_finalists(self.probs, self.targets, self.dataset.groups_of("test"))
        options = JudgementOptions(self.options.gate)
        return sensitivity(
            lambda targets: verdict_alone(probs, JudgedRows(targets, rows.groups), options),
            self.targets,
            len(self.dataset.class_names),
            draws=max(_MIN_DRAWS, min(self.options.noise_draws, _JUDGED_ROWS // len(self.targets))),
            seed=self.options.seed,
        )


def fit_guarantees(dataset: Dataset, probs: Floats) -> Guarantees:
    """Fit the guarantees of a served model on its guarantee rows, from its probabilities (N, K) on them."""
    targets = dataset.targets[dataset.rows("guarantee")]
    return Guarantees.fit(probs, targets, class_names=dataset.class_names, groups=dataset.groups_of("guarantee"))


def check_test_groups(dataset: Dataset) -> None:
    """BadDataset `split_too_small` where the test rows are all of one group, on which nothing can be judged."""
    if dataset.groups is not None and len(np.unique(dataset.groups[dataset.rows("test")])) < 2:
        raise BadDataset(
            "split_too_small", "all rows of the split 'test' are of one group, at least 2 groups are needed"
        )


def few_rows(num_rows: int, fitted: Calibrator) -> list[str]:
    """A sentence where there were too few calibration rows for more than a cautious temperature."""
    if not isinstance(fitted, ShrunkenTemperature):
        return []
    return [
        f"Only {num_rows} calibration rows: they carry no more than a temperature, shrunk towards 1. From {FEW_ROWS} "
        "rows on several calibrators are pooled, which can mend more."
    ]


def ordered_priors(dataset: Dataset, options: CalibrationOptions) -> Floats | None:
    """The priors (K,) that the answers are to be for; raises Mismatch `class_priors_mismatch`."""
    if options.class_priors is None:
        return None
    try:
        return priors_of(options.class_priors, dataset.class_names)
    except ValueError as error:
        raise Mismatch("class_priors_mismatch", str(error)) from error


def uploaded_at_priors(post_hoc: Finalist, base_logits: ArrayLike, options: CalibrationOptions) -> Finalist | None:
    """The network of `post_hoc` without its calibrator, where the job has priors for its answers; else None."""
    if options.class_priors is None:
        return None
    uploaded = CandidateResult("uploaded", "post_hoc", {}, "none", "finished", calibrator=Identity())
    return Finalist(post_hoc.classifier, Identity(), uploaded, np.asarray(base_logits, np.float64), post_hoc.features)


def deployment_of(
    held_out: ArrayLike, base_logits: ArrayLike, dataset: Dataset, options: CalibrationOptions
) -> Deployment:
    """Class priors and thresholds of calibrated logits (N, K) out of fold, and of the uploaded model's (N, K)."""
    return Deployment.fit(
        softmax(held_out),
        base_logits,
        dataset.targets[dataset.rows("calibration")],
        weights=dataset.weights_of("calibration"),
        priors=ordered_priors(dataset, options),
    )
