"""The calibration report as a document, the content of report.json, and the evidence that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from fedlas.contract.profiles import Notice
from fedlas.contract.report import GateVerdict, Subject, WrittenFile
from fedlas.contract.sections import Diagnostics, LabelNoise
from fedlas.deployment import Deployment
from fedlas.documents import Json
from fedlas.guarantees import Guarantees
from fedlas.metrics.confidence_gap import SplitAccuracy
from fedlas.report.parts import OutOfFold


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The test rows of one job, three models' probabilities on them, and what stands beside them in the report.

    Attributes:
        uploaded, temperature, calibrated: probabilities (N, K) of the uploaded model, of the same with a temperature,
            and of the model that is to be served; targets: class indices (N,); groups: of the rows (N,), if any.
        class_names: the K names in order; `positive_class` is one of them where K = 2 (the second by default).
        finalists: probabilities (N, K) of `uploaded`, `temperature` and everything that was judged, by name.
        trained_rows: split → rows that the served network was trained on, where it was trained at all.
        slices: columns (N,) by name; every value is a slice. Numbers with many values are cut into quarters.
        guarantees, deployment: of the model that is to be served; its probabilities are those before priors shift them.
        evaluations_before: how often the test rows had judged before, as the evaluation ledger says.
        seen_by_model: which rows the model has seen, as the dataset says (`no`, `train_split`, `unknown`).
        calibration_accuracy: of the uploaded model, to compare with its accuracy on test rows.
        candidates: `CandidateResult.as_dict()` of all candidates of the race.
        machine: added to what `machine_facts` finds.
        written_file: the proof of the file that is served, and what gave way to it.
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
