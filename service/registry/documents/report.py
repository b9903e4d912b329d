"""The report: the evidence of one job, as `GET /v1/jobs/{id}/report` answers it.

Its fields are those of the library's dataclasses (`fedlas.report.document`), as `fedlas.documents.as_json` writes them.
What the library leaves open stands here: which verdicts there are, and what is told of a candidate.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import Field, JsonValue, create_model

from fedlas.gate.guards import Guard, Veto
from fedlas.gate.verdict import Claim, Comparison
from fedlas.gate.verdict import GateVerdict as LibraryVerdict
from fedlas.metrics import METRICS, BinnedEstimate, Estimate
from fedlas.metrics.evaluate import Estimates as LibraryEstimates
from fedlas.report.deployment import CoverageLevel, ErrorLevel, GuaranteeTable
from fedlas.report.document import CalibrationReport
from fedlas.report.label_noise import NoiseLevel
from fedlas.report.parts import AddedPart, LossComparison, MethodDifference
from fedlas.report.provenance import GaveWay, Parity
from fedlas.report.sections import ConfidentSection, NamedClassRow, PositiveClassSection, RiskCoverageSection
from service.registry.documents.profiles import Notice, SeenByModel
from service.registry.json_models import Document

Verdict = Literal["trained", "post_hoc", "unchanged", "undetermined"]
Finalist = Literal["same_labels", "post_hoc", "trained", "average"]
#: A figure; null where it does not exist, since JSON has neither NaN nor infinity.
Figure = float | None


class FittedCalibrator(Document):
    """A calibrator with its parameters, whose names and shapes are its own."""

    name: str
    parameters: dict[str, JsonValue]


class CandidateSummary(Document):
    """One candidate of the race on the calibration rows."""

    name: str
    method: str
    hyperparameters: dict[str, JsonValue]
    scope: str = Field(description="`all`, `head`, or `none` where nothing is trained.")
    status: str = Field(
        description="`finished`, `skipped`, `eliminated` (not among the best of the first folds), `dropped`, "
        "`diverged`."
    )
    reason: str
    calibration: dict[str, float | None] | None = Field(description="Metric → score; null: not trained to the end.")
    calibrator: FittedCalibrator | None


#: Names of documents that are not those of the dataclasses: schemas keep the names that clients have generated from.
_NAMES = {
    CalibrationReport: "Report",
    NamedClassRow: "ClassRow",
    PositiveClassSection: "PositiveClass",
    RiskCoverageSection: "RiskCoverage",
    Claim: "GateClaim",
    Comparison: "ScoreDifference",
    Guard: "GateGuard",
    Veto: "GateVeto",
}
#: Types of fields that the dataclasses leave open; a number among them is never null.
_TYPES: dict[type, dict[str, Any]] = {
    CalibrationReport: {
        "verdict": Verdict,
        "seen_by_model": SeenByModel | None,
        "candidates": list[CandidateSummary],
        "notices": list[Notice],
        "adjustments": list[Notice],
        "confidence_level": float,
    },
    ErrorLevel: {"level": float},
    CoverageLevel: {"level": float},
    GuaranteeTable: {"delta": float},
    ConfidentSection: {"threshold": float},
    NoiseLevel: {"share": float, "verdicts": dict[str, float]},
    LibraryVerdict: {"verdict": Verdict, "finalist": Finalist | None, "order": list[Finalist]},
    Claim: {"finalist": Finalist, "level": float},
    Guard: {"finalist": Finalist},
    GaveWay: {"finalist": Finalist | Literal["uploaded"]},
    Parity: {"max_probability_error": float, "limit": float},
    Veto: {"finalist": Finalist},
    AddedPart: {"name": Literal["uploaded", "temperature", "post_hoc", "trained", "average"]},
    LossComparison: {"method": Literal["fedlas", "fedlas_plus"] | None},
    MethodDifference: {
        "against": Literal["label_smoothing", "cross_entropy"],
        "finding": Literal["better", "no_difference_shown", "worse"],
    },
}


@cache
def document_of(source: type) -> type[Document]:
    hints, given = get_type_hints(source), _TYPES.get(source, {})
    members: dict[str, Any] = {}
    for part in fields(source):
        key, default = (
            part.metadata.get("key", part.name),
            ... if part.default is MISSING else _json_value(part.default),
        )
        name, alias = (f"{key}_", key) if keyword.iskeyword(key) else (key, None)
        members[name] = (given.get(part.name) or _json_type(hints[part.name]), Field(default, alias=alias))
    return create_model(_NAMES.get(source, source.__name__), __base__=Document, __doc__=source.__doc__, **members)


def _json_value(default: Any) -> Any:
    """A default as JSON has it: no tuples."""
    return list(default) if isinstance(default, tuple) else default


def _json_type(hint: Any) -> Any:
    """The type of the JSON that is written for a value of this type."""
    origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return document_of(hint)
    if hint is float:
        return Figure
    if hint is Any:
        return JsonValue
    if origin in (Union, UnionType):
        return Union[tuple(map(_json_type, parts))]  # noqa: UP007
    if origin is np.ndarray:
        return list[int] if np.issubdtype(get_args(parts[1])[0], np.integer) else list[Figure]
    if origin is tuple:
        return list[_json_type(parts[0])]  # type: ignore[misc]
    if hint == LibraryEstimates:
        return Estimates
    if origin is Mapping:
        value: Any = _json_type(parts[1])
        return by_model(value) if isinstance(value, type) and issubclass(value, Document) else dict[str, value]
    return hint


@cache
def by_model(section: type[Document]) -> type[Document]:
    """A section for the uploaded model, for it with a temperature, and for the model that is served."""
    models: dict[str, Any] = dict.fromkeys(("uploaded", "temperature", "calibrated"), (section, ...))
    return create_model(f"ByModel[{section.__name__}]", __base__=Document, __doc__=by_model.__doc__, **models)


_METRICS: dict[str, Any] = {
    name: (_json_type(BinnedEstimate | Estimate if name.endswith("ece") else Estimate), ...) for name in METRICS
}
Estimates = create_model(
    "Estimates", __base__=Document, __doc__="The metrics of one model, or of the difference between two.", **_METRICS
)
_TYPES[CalibrationReport]["differences"] = create_model(
    "Differences",
    __base__=Document,
    __doc__="Metrics of the served model minus those of another, paired by row.",
    calibrated_minus_uploaded=(Estimates, ...),
    calibrated_minus_temperature=(Estimates, ...),
)
GateVerdict = document_of(LibraryVerdict)
Report = document_of(CalibrationReport)
