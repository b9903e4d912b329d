"""The building of a report: three models evaluated on the test rows, with the sentences about them.

Caveats: what makes the figures of a report doubtful, each in a sentence that says what to check.

The calibration report as a document, the content of report.json, and the evidence that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fedlas import metrics
from fedlas.contract.profiles import GuaranteesDocument, Notice
from fedlas.contract.report import EvaluationLedger, GateVerdict, Report, Subject, WrittenFile
from fedlas.contract.sections import Diagnostics, LabelNoise, WorstParts
from fedlas.deployment import Deployment
from fedlas.documents import Json, as_json
from fedlas.errors import BadDataset
from fedlas.gate.guards import JudgedRows
from fedlas.guarantees import Guarantees
from fedlas.metrics.calibration_error import SplitAccuracy
from fedlas.metrics.evaluate import Estimates
from fedlas.metrics.statistics import Floats, Ints, check_groups, check_rows
from fedlas.report import sections
from fedlas.report.deployment import decision_table, guarantee_table, priors_section
from fedlas.report.number_words import as_sentence
from fedlas.report.parts import OutOfFold, added_parts, loss_comparison
from fedlas.report.provenance import library_versions, machine_facts
from fedlas.report.recipe import recipe_sentences
from fedlas.report.summary import next_step, served_sentence, summary


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


#: A model of such accuracy and NLL has usually seen the rows.
ACCURACY_TOO_GOOD = 0.995
NLL_TOO_GOOD = 0.05
MIN_DOUBTED_ROWS = 200
#: Such accuracy is common where one class has nearly all rows: of the errors of always answering it, this share is
#: left at most.
ERRORS_LEFT = 0.1
#: Calibration rows that are so much easier than test rows, beyond chance, were seen or come from elsewhere.
ACCURACY_APART = 0.02
FEW_ROWS = 200
FEW_GROUPS = 30


def caveats(
    evidence: Evidence, rows: JudgedRows, names: Sequence[str], uploaded: Estimates, apart: str | None
) -> tuple[str, ...]:
    """All warnings about the test rows, given the uploaded model's metrics and what `splits_apart` says."""
    targets, accuracy, nll = rows.targets, uploaded["accuracy"].value, uploaded["nll"].value
    # A notice's statement about the test rows is not repeated.
    told = {notice.code for notice in evidence.warnings if notice.evidence.get("split") == "test"}
    sentences = [
        _too_good(rows, accuracy, nll, evidence.seen_by_model),
        _no_better_than_guessing(targets, names, accuracy),
        apart,
        None if "class_not_met" in told else _missing_classes(targets, names),
        None if "few_groups" in told else _few(rows),
    ]
    duplicated = [
        f"{count:,} test row{'s' if count > 1 else ''} also occur{'' if count > 1 else 's'} in the split '{split}': "
        "figures on such rows are too good."
        for split, count in (evidence.duplicates or {}).items()
        if count > 0
    ]
    return (*filter(None, sentences), *duplicated)


def _too_good(rows: JudgedRows, accuracy: float, nll: float, seen_by_model: str | None) -> str | None:
    num_rows, guessed = len(rows.targets), float(np.bincount(rows.targets).max() / len(rows.targets))
    if seen_by_model == "unknown" or num_rows < MIN_DOUBTED_ROWS or _few_groups(rows):
        return None
    if accuracy < ACCURACY_TOO_GOOD or nll > NLL_TOO_GOOD or 1 - accuracy > ERRORS_LEFT * (1 - guessed):
        return None
    return (
        f"The uploaded model has an accuracy of {100 * accuracy:.2f} % and an NLL of {nll:.4f} on the {num_rows:,} "
        "test rows. Check that it has not seen these rows: for rows that it was trained on, nothing in this report "
        "holds."
    )


def _no_better_than_guessing(targets: Ints, names: Sequence[str], accuracy: float) -> str | None:
    counts = np.bincount(targets)
    share = float(counts.max() / len(targets))
    if accuracy > share + sqrt(share * (1 - share) / len(targets)) or share == 1:
        return None
    commonest = names[int(counts.argmax())]
    how = "not significantly higher" if accuracy > share else "not higher"
    return (
        f"The uploaded model has an accuracy of {100 * accuracy:.1f} %, {how} than that of always answering "
        f"“{commonest}” ({100 * share:.1f} %): accuracy is no evidence that it has learned anything. The recall of "
        "each class tells more."
    )


def splits_apart(before: SplitAccuracy | None, now: SplitAccuracy) -> str | None:
    """Warning that calibration and test rows do not look alike, by the uploaded model's accuracy on them; else None."""
    if before is None or abs(before.value - now.value) < ACCURACY_APART or not before.is_apart(now):
        return None
    fell = before.value < now.value
    cause = "labels of calibration rows are wrong" if fell else "it was trained on the calibration rows"
    return (
        f"The uploaded model has an accuracy of {100 * before.value:.1f} % on the calibration rows and of "
        f"{100 * now.value:.1f} % on the test rows, more than chance explains. Check whether {cause}, and whether both "
        "splits were drawn alike (same time, same source): what was fitted on the calibration rows may "
        f"{'not hold on the test rows' if fell else 'be too confident'}."
    )


def _missing_classes(targets: Ints, names: Sequence[str]) -> str | None:
    num_classes = len(names)
    missing = np.flatnonzero(np.bincount(targets, minlength=num_classes) == 0)
    if len(missing) == 0:
        return None
    if len(missing) == num_classes - 1:
        return f"All test rows are of one class ({names[int(targets[0])]}): nothing is known about the others."
    shown = ", ".join(names[k] for k in missing[:5]) + (" …" if len(missing) > 5 else "")
    return f"{len(missing)} of {num_classes} classes have no test row, so nothing is known about them: {shown}."


def _few(rows: JudgedRows) -> str | None:
    if rows.groups is not None and _few_groups(rows):
        return (
            f"The test rows come from only {int(rows.groups.max()) + 1} groups: intervals that resample so few groups "
            "are too short."
        )
    if len(rows.targets) < FEW_ROWS:
        return f"There are only {len(rows.targets)} test rows: intervals are wide, and binned errors are mostly noise."
    return None


def _few_groups(rows: JudgedRows) -> bool:
    return rows.groups is not None and int(rows.groups.max()) + 1 < FEW_GROUPS


T = TypeVar("T")


def build_report(
    evidence: Evidence, *, num_bins: int = 15, num_resamples: int = 1000, confidence_level: float = 0.95
) -> Report:
    """Evaluate the three models on the test rows and write the sentences about them.

    Raises:
        BadDataset: `split_too_small` if the rows are given groups but all are of one.
        ValueError: shapes do not fit, probabilities or targets are none, or an option is out of range.
    """
    models, rows = _checked(evidence)
    names = _names(evidence, models["uploaded"].shape[1])
    options = sections.Resampling(num_bins, num_resamples, confidence_level, evidence.seed)
    classes = sections.class_section(models["calibrated"], rows, names, options)
    slices = sections.slice_section(models["calibrated"], rows, evidence.slices, options)
    estimates = _by_model(models, lambda p: metrics.evaluate(p, rows.targets, groups=rows.groups, **vars(options)))
    # The scores of a model that may have seen the calibration rows are not out of fold.
    scored = None if evidence.seen_by_model == "unknown" else evidence.out_of_fold
    calibration = evidence.calibration_accuracy
    right = SplitAccuracy.of(models["uploaded"].argmax(1) == rows.targets, groups=rows.groups)
    apart = splits_apart(calibration, right)
    promised = evidence.guarantees if evidence.gate.serves == "calibrated" else None
    report = Report(
        promise=None if promised is None else GuaranteesDocument.model_validate(promised.as_dict()).promise(),
        subject=evidence.subject,
        verdict=evidence.gate.verdict,
        serves=evidence.gate.serves,
        significant=evidence.gate.significant,
        beats_simpler=evidence.gate.beats_simpler,
        summary=(),
        advice=(),
        warnings=(
            *(as_sentence(notice.message) for notice in evidence.warnings),
            *caveats(evidence, rows, names, estimates["uploaded"], apart),
        ),
        notices=tuple(evidence.warnings),
        adjustments=tuple(evidence.adjustments),
        notes=tuple(evidence.notes),
        metrics=estimates,
        differences={
            f"calibrated_minus_{name}": metrics.compare(
                models["calibrated"], models[name], rows.targets, groups=rows.groups, **vars(options)
            )
            for name in ("uploaded", "temperature")
        },
        confident_answers=_by_model(models, lambda p: sections.confident_section(p, rows, names)),
        confidence_gap=sections.confidence_gaps(
            models,
            rows,
            scored,
            finalist=evidence.gate.finalist,
            fitted_units=None if calibration is None else calibration.effective_units,
        ),
        confidence=_by_model(models, lambda p: sections.confidence(p, rows, options)),
        calibration_test=_by_model(
            models,
            lambda p: metrics.calibration_test(
                p, rows.targets, num_bins=num_bins, num_draws=num_resamples, seed=evidence.seed
            ),
        ),
        risk_coverage=_by_model(models, lambda p: sections.risk_coverage(p, rows, options)),
        reliability=_by_model(models, lambda p: sections.reliability(p, rows, options)),
        num_test_rows=len(rows.targets),
        num_groups=None if rows.groups is None else int(rows.groups.max()) + 1,
        num_classes=len(names),
        confidence_level=confidence_level,
        classes=classes,
        slices=slices,
        binary=sections.binary_section(models, rows, names, evidence.positive_class, options),
        gate=evidence.gate,
        looks=None if evidence.evaluations_before is None else EvaluationLedger(before=evidence.evaluations_before),
        guarantees=guarantee_table(evidence.guarantees, models["calibrated"], rows, confidence_level),
        decisions=decision_table(
            evidence.deployment, models["uploaded"], models["calibrated"], rows, names, confidence_level
        ),
        class_priors=priors_section(evidence.deployment, names),
        label_noise=evidence.label_noise,
        signs=evidence.diagnostics,
        parts=added_parts(
            scored,
            evidence.finalists,
            rows,
            served=evidence.gate.finalist or "uploaded",
            confidence_level=confidence_level,
        ),
        loss_comparison=loss_comparison(evidence.out_of_fold, confidence_level=confidence_level),
        trained_rows=evidence.trained_rows,
        candidates=tuple(as_json(candidate) for candidate in evidence.candidates),
        recipe=dict(evidence.recipe),
        recipe_in_words=recipe_sentences(
            evidence.recipe, seed=evidence.seed, trained_rows=evidence.trained_rows, num_test_rows=len(rows.targets)
        ),
        seed=evidence.seed,
        seen_by_model=evidence.seen_by_model,
        duplicates=evidence.duplicates,
        digests=dict(evidence.digests),
        versions=dict(library_versions() if evidence.versions is None else evidence.versions),
        machine={**machine_facts(), **evidence.machine},
        worst=WorstParts(
            class_=sections.worst_class(classes, confidence_level), slice=sections.worst_slice(slices, confidence_level)
        ),
        written_file=evidence.written_file,
    )
    advised = report.changed(advice=(served_sentence(report), next_step(report, apart)))
    return advised.changed(summary=tuple(summary(advised)))


def _checked(evidence: Evidence) -> tuple[dict[str, Floats], JudgedRows]:
    names = ("uploaded", "temperature", "calibrated")
    checked = {name: check_rows(getattr(evidence, name), evidence.targets) for name in names}
    targets = checked["uploaded"][1]
    groups = check_groups(evidence.groups, len(targets))
    if groups is not None and int(groups.max()) == 0:
        raise BadDataset(
            "split_too_small", "all rows of the split 'test' are of one group, at least 2 groups are needed"
        )
    return {name: probs for name, (probs, _) in checked.items()}, JudgedRows(targets, groups)


def _names(evidence: Evidence, num_classes: int) -> list[str]:
    if evidence.class_names is None:
        return [str(k) for k in range(num_classes)]
    if len(evidence.class_names) != num_classes:
        raise ValueError(
            f"class_names must be {num_classes} names, as probs has columns, got {len(evidence.class_names)}"
        )
    return [str(name) for name in evidence.class_names]


def _by_model(models: Mapping[str, Floats], section: Callable[[Floats], T]) -> dict[str, T]:
    """A section of every model; that of equal models is computed once."""
    twins = {name: next(other for other in models if np.array_equal(models[other], models[name])) for name in models}
    computed = {name: section(models[name]) for name in dict.fromkeys(twins.values())}
    return {name: computed[twin] for name, twin in twins.items()}
