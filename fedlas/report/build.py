"""The building of a report: three models evaluated on the test rows, with the sentences about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from fedlas import metrics
from fedlas.contract.report import EvaluationLedger, Report
from fedlas.contract.sections import WorstParts
from fedlas.documents import as_json
from fedlas.errors import BadDataset
from fedlas.gate.guards import JudgedRows
from fedlas.metrics._checks import Floats, check_groups, check_rows
from fedlas.metrics.confidence_gap import SplitAccuracy
from fedlas.report import sections
from fedlas.report.caveats import caveats, splits_apart
from fedlas.report.deployment import decision_table, guarantee_table, priors_section
from fedlas.report.document import Evidence
from fedlas.report.parts import added_parts, loss_comparison
from fedlas.report.provenance import library_versions, machine_facts
from fedlas.report.recipe import recipe_sentences
from fedlas.report.summary import next_step, served_sentence, summary
from fedlas.report.wording import as_sentence

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
    report = Report(
        subject=evidence.subject,
        verdict=evidence.gate.verdict,
        serves=evidence.gate.serves,
        significant=evidence.gate.significant,
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
