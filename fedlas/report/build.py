"""Puts the report together: three models on the test rows, and everything a reader needs beside them; it draws nothing.

Everything that a picture or the page shows is computed here once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas import metrics
from fedlas.errors import BadDataset
from fedlas.gate.gate import Judgement
from fedlas.metrics._checks import check_groups, check_rows
from fedlas.report import sections, sentences
from fedlas.report.caveats import suspicions
from fedlas.report.environment import library_versions, machine_facts
from fedlas.report.guarantees import promises

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CalibrationReport:
    """The report of one job; `as_dict()` is what `GET /v1/jobs/{id}/report` answers."""

    content: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return self.content

    @property
    def verdict(self) -> str:
        return str(self.content["verdict"])


def build_report(
    *,
    judgement: Judgement,
    uploaded: ArrayLike,
    temperature: ArrayLike,
    calibrated: ArrayLike,
    targets: ArrayLike,
    groups: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    positive_class: str | None = None,
    slices: Mapping[str, ArrayLike] | None = None,
    signs: Mapping[str, Any] | None = None,
    label_noise: Mapping[str, Any] | None = None,
    guarantees: Mapping[str, Any] | None = None,
    looks: Mapping[str, Any] | None = None,
    seen_by_model: str | None = None,
    calibration_accuracy: float | None = None,
    num_calibration_rows: int | None = None,
    duplicates: Mapping[str, int] | None = None,
    candidates: Sequence[Mapping[str, Any]] = (),
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    digests: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
) -> CalibrationReport:
    """Evaluate three models on the test rows and put everything a reader needs beside it.

    Args:
        uploaded, temperature, calibrated: probabilities (N, K) of the model as it came, with a temperature, and of
            the model that is to be served; targets: class indices (N,).
        class_names: the K names in order; `positive_class` is one of them where K = 2 (the second by default).
        slices: columns (N,) by name; every value is a slice. Numbers with many values are cut into quarters.
        signs: of `fedlas.report.diagnostics.fedlas_signs`; label_noise: of `fedlas.report.label_noise.sensitivity`.
        guarantees: `fedlas.guarantees.Guarantees.as_dict()` of the model that is to be served.
        looks: how often the test rows have judged, `{"before": 2}`, and whatever else the gate's ledger says.
        seen_by_model: what the dataset says the model has seen (`no`, `train_split`, `unknown`).
        calibration_accuracy, num_calibration_rows: of the uploaded model, to compare with its accuracy here.
        duplicates: how many test rows also occur in each other split, by its name.
        candidates: `CandidateResult.as_dict()` of all candidates of the race.
        machine: more about the machine, beside what `machine_facts` finds.
        notes: further sentences for the summary (budget, warnings of the dataset).

    Raises:
        BadDataset: `split_too_small` if the rows are given groups but all are of one.
        ValueError: shapes do not fit, probabilities or targets are none, or an option is out of range.
    """
    probs = {"uploaded": uploaded, "temperature": temperature, "calibrated": calibrated}
    rows = {name: check_rows(p, targets)[0] for name, p in probs.items()}
    labels = check_rows(uploaded, targets)[1]
    ids = check_groups(groups, len(labels))
    if ids is not None and int(ids.max()) == 0:
        raise BadDataset(
            "split_too_small", "all rows of the split 'test' are of one group, at least 2 groups are needed"
        )
    names = _names(class_names, rows["uploaded"].shape[1])
    options: dict[str, Any] = {
        "num_bins": num_bins,
        "num_resamples": num_resamples,
        "confidence_level": confidence_level,
        "seed": seed,
    }
    content: dict[str, Any] = {
        "verdict": judgement.verdict,
        "promoted": judgement.promoted,
        "summary": [],
        "advice": [],
        "warnings": [],
        **_scores(rows, labels, ids, options),
        "num_test_rows": len(labels),
        "num_groups": None if ids is None else int(ids.max()) + 1,
        "num_classes": len(names),
        "confidence_level": confidence_level,
        "classes": sections.classes(rows["calibrated"], labels, ids, names, options),
        "slices": sections.slice_section(rows["calibrated"], labels, ids, slices, options),
        "binary": _binary(rows, labels, ids, names, positive_class, options),
        "gate": judgement.as_dict(),
        "looks": None if looks is None else dict(looks),
        "guarantees": promises(guarantees, rows["calibrated"], labels, ids, confidence_level),
        "label_noise": None if label_noise is None else dict(label_noise),
        "signs": None if signs is None else dict(signs),
        "candidates": [dict(candidate) for candidate in candidates],
        "recipe": dict(recipe or {}),
        "seed": seed,
        "seen_by_model": seen_by_model,
        "duplicates": None if duplicates is None else dict(duplicates),
        "digests": dict(digests or {}),
        "versions": dict(versions if versions is not None else library_versions()),
        "machine": {**machine_facts(), **(machine or {})},
    }
    scores = content["metrics"]["uploaded"]
    content["warnings"] = suspicions(
        targets=labels,
        num_classes=len(names),
        names=names,
        groups=ids,
        accuracy=scores["accuracy"]["value"],
        nll=scores["nll"]["value"],
        calibration_accuracy=calibration_accuracy,
        num_calibration_rows=num_calibration_rows,
        seen_by_model=seen_by_model,
        duplicates=duplicates,
    )
    content["worst"] = _worst(content)
    content["advice"] = sentences.advice(content)
    content["summary"] = [*judgement.sentences, *_summary(content), *notes]
    return CalibrationReport(finite(content))


def _names(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    if class_names is None:
        return [str(k) for k in range(num_classes)]
    if len(class_names) != num_classes:
        raise ValueError(f"class_names must be {num_classes} names, as probs has columns, got {len(class_names)}")
    return [str(name) for name in class_names]


def _scores(rows: Mapping[str, Floats], targets: Ints, groups: Ints | None, options: dict[str, Any]) -> dict[str, Any]:
    """What is said of all three models alike; equal models are evaluated once."""
    twins = {name: next(other for other in rows if np.array_equal(rows[other], rows[name])) for name in rows}
    alone = {name: _model(rows[name], targets, groups, options) for name in dict.fromkeys(twins.values())}
    parts = {key: {name: alone[twins[name]][key] for name in rows} for key in next(iter(alone.values()))}
    differences = {
        f"calibrated_minus_{name}": sections.as_dicts(
            metrics.compare(rows["calibrated"], rows[name], targets, groups=groups, **options)
        )
        for name in ("uploaded", "temperature")
    }
    return {"metrics": parts.pop("metrics"), "differences": differences, **parts}


def _model(probs: Floats, targets: Ints, groups: Ints | None, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "metrics": sections.as_dicts(metrics.evaluate(probs, targets, groups=groups, **options)),
        "confidence": sections.confidence(probs, targets, options),
        "calibration_test": sections.calibration_test(probs, targets, options),
        "risk_coverage": sections.risk_coverage(probs, targets, groups, options),
        "reliability": sections.reliability(probs, targets, options),
    }


def _binary(
    rows: Mapping[str, Floats],
    targets: Ints,
    groups: Ints | None,
    names: Sequence[str],
    positive_class: str | None,
    options: dict[str, Any],
) -> dict[str, Any] | None:
    if len(names) != 2:
        return None
    if positive_class is not None and positive_class not in names:
        raise ValueError(f"positive_class must be one of {list(names)}, got {positive_class!r}")
    positive = 1 if positive_class is None else names.index(positive_class)
    shown = {name: sections.binary(p, targets, groups, positive, options) for name, p in rows.items()}
    return {"positive_class": names[positive], **shown}


def _worst(content: Mapping[str, Any]) -> dict[str, str | None]:
    level = content["confidence_level"]
    return {
        "class": sentences.worst_class(content["classes"], level),
        "slice": sentences.worst_slice(content["slices"], level),
    }


def _summary(content: Mapping[str, Any]) -> list[str]:
    """The sentences between the verdict's and the notes: numbers first, then where not to trust them."""
    level, binary = content["confidence_level"], content["binary"]
    found = [
        *sentences.calibration_sentences(content["metrics"]),
        *content["advice"][1:],
        sentences.positive_sentence(binary, level) if binary else None,
        content["worst"]["class"],
        content["worst"]["slice"],
        None if (content["looks"] or {}).get("before") else sentences.looks_sentence(content),
        *(content["label_noise"] or {}).get("sentences", ()),
        *(content["signs"] or {}).get("sentences", ()),
        *content["warnings"],
    ]
    return [sentence for sentence in found if sentence]


def finite(value: Any) -> Any:
    """The same content without NaN or infinity, which JSON does not have: they become null."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
