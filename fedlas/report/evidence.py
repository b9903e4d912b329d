"""Evidence: all that a calibration report is made of, and the accuracy of a split, by which two are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot, sqrt

import numpy as np
from numpy.typing import ArrayLike

from fedlas.deployment import Deployment
from fedlas.documents import Json
from fedlas.gate.verdict import GateVerdict
from fedlas.guarantees import Guarantees
from fedlas.metrics._checks import Floats, check_groups
from fedlas.metrics.bootstrap import row_shares
from fedlas.metrics.confidence_gap import effective_units
from fedlas.notice import Notice
from fedlas.report.diagnostics import Diagnostics
from fedlas.report.label_noise import LabelNoise
from fedlas.report.parts import OutOfFold
from fedlas.report.provenance import Subject, WrittenFile

#: Two splits are apart beyond chance where as unlikely as this many standard errors of a normal distribution.
STANDARD_ERRORS_APART = 3.0


@dataclass(frozen=True)
class SplitAccuracy:
    """The share of rows that are answered rightly.

    Attributes:
        error: its standard error, over whole groups; never that of exactly 0 or 1, which no finite sample shows.
        num_units: how many rows or groups vary independently; `effective_units` are as many of equal weight.
    """

    value: float
    error: float
    num_units: int
    effective_units: float

    @classmethod
    def of(
        cls, correct: ArrayLike, *, groups: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> SplitAccuracy:
        """Of rows (N,) that are right or not, in groups (N,) that vary together, weighted by `weights` (N,).

        >>> SplitAccuracy.of([1, 1, 0, 0]).error < SplitAccuracy.of([1, 1, 0, 0], groups=[0, 0, 1, 1]).error
        True
        """
        hits: Floats = np.asarray(correct, dtype=np.float64)
        rows = row_shares(weights, len(hits))
        codes = check_groups(groups, len(hits))
        units = np.arange(len(hits)) if codes is None else codes
        value, count = float(rows @ hits), int(units.max()) + 1
        scatter = np.square(np.bincount(units, rows * (hits - value))).sum() * count / max(count - 1, 1)
        error = sqrt(max(float(scatter), 0.25 / count**2))
        return cls(value, error, count, effective_units(len(hits), groups=groups, weights=weights))

    def interval(self, confidence_level: float) -> tuple[float, float]:
        """Between which accuracies that of all rows lies, by Student's t over whole groups.

        >>> low, high = SplitAccuracy.of([1] * 80 + [0] * 20).interval(0.95)
        >>> round(low, 2), round(high, 2)
        (0.72, 0.88)
        """
        from scipy.special import stdtrit  # loaded with the first report, not with the module

        half = float(stdtrit(max(self.num_units - 1, 1), (1 + confidence_level) / 2)) * self.error
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def is_apart(self, other: SplitAccuracy) -> bool:
        """Whether the two differ beyond chance, by Student's t with the degrees of freedom of the smaller one.

        Splits of one unit each tell nothing of how units vary, so they are never apart.
        """
        freedom = min(self.num_units, other.num_units) - 1
        if freedom < 1:
            return False
        from scipy.special import ndtr, stdtrit  # `scipy.stats` would delay the start of every process by half a second

        limit = float(stdtrit(freedom, ndtr(STANDARD_ERRORS_APART)))
        return abs(self.value - other.value) >= limit * hypot(self.error, other.error)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The test rows of one job, three models' probabilities on them, and what stands beside them in the report.

    Attributes:
        gate: what the gate decided on these rows.
        uploaded, temperature, calibrated: probabilities (N, K) of the uploaded model, of the same with a temperature,
            and of the model that is to be served; targets: class indices (N,); groups: of the rows (N,), if any.
        class_names: the K names in order; `positive_class` is one of them where K = 2 (the second by default).
        finalists: probabilities (N, K) of `uploaded`, `temperature` and everything that was judged, by name.
        out_of_fold: what calibration rows say of them.
        trained_rows: split → rows that the served network was trained on, where it was trained at all.
        slices: columns (N,) by name; every value is a slice. Numbers with many values are cut into quarters.
        guarantees, deployment: of the model that is to be served; its probabilities are those before priors shift them.
        evaluations_before: how often the test rows had judged before, as the evaluation ledger says.
        seen_by_model: which rows the model has seen, as the dataset says (`no`, `train_split`, `unknown`).
        calibration_accuracy: of the uploaded model, to compare with its accuracy on test rows.
        duplicates: how many test rows also occur in each other split, by its name.
        candidates: `CandidateResult.as_dict()` of all candidates of the race.
        versions: of the libraries; those that are installed by default.
        machine: added to what `machine_facts` finds.
        written_file: the proof of the file that is served, and what gave way to it.
        subject: whose report it is.
        warnings, adjustments: what looked wrong with model and dataset, and what was done for their owner.
        notes: further sentences for the summary (budget, warnings of the dataset).
    """

    gate: GateVerdict
    uploaded: ArrayLike
    temperature: ArrayLike
    calibrated: ArrayLike
    targets: ArrayLike
    groups: ArrayLike | None = None
    class_names: Sequence[str] | None = None
    positive_class: str | None = None
    finalists: Mapping[str, ArrayLike] = field(default_factory=dict)
    out_of_fold: OutOfFold | None = None
    trained_rows: Mapping[str, int] | None = None
    slices: Mapping[str, ArrayLike] = field(default_factory=dict)
    diagnostics: Diagnostics | None = None
    label_noise: LabelNoise | None = None
    guarantees: Guarantees | None = None
    deployment: Deployment | None = None
    evaluations_before: int | None = None
    seen_by_model: str | None = None
    calibration_accuracy: SplitAccuracy | None = None
    duplicates: Mapping[str, int] | None = None
    candidates: Sequence[Mapping[str, object]] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    machine: Mapping[str, Json] = field(default_factory=dict)
    warnings: Sequence[Notice] = ()
    adjustments: Sequence[Notice] = ()
    notes: Sequence[str] = ()
    subject: Subject | None = None
    written_file: WrittenFile | None = None
