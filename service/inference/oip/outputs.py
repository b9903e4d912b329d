"""What a model answers under the protocol: named arrays, made from the outputs of its file; it knows no HTTP.

What the values mean stands in `answers` and `acting`; here they only get the protocol's names, types and shapes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from service.inference.decision_policy import DecisionPolicy, acting, positive_index
from service.inference.excerpts import shown
from service.inference.oip.requests import InferenceRequest, RequestedOutput, Scalar
from service.inference.predictions import (
    AnswerOptions,
    abstention_threshold,
    best_classes,
    check_finite,
    familiarity,
)
from service.inference.standard_outputs import completed
from service.registry.errors import InvalidRequest

Profile = Mapping[str, Any]

#: What goes back where the client names no outputs; what its parameters ask for comes on top.
DEFAULTS = ("probabilities", "confidence", "label")
#: Outputs whose columns are the classes, which the classification extension can rank.
_CLASSIFIABLE = ("probabilities", "logits")
_RANKED = ("top_k_index", "top_k_label", "top_k_confidence")
#: Outputs that are there only with one of these parameters.
_NEEDED_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "threshold": ("abstain_below", "max_error"),
    "prediction_set": ("coverage",),
    **dict.fromkeys(_RANKED, ("top_k",)),
    "decision": ("decision_threshold",),
}
#: Outputs of the file that a request may take, and those that an output of the protocol is computed from; all others
#: are made of the columns that every batch has.
_MADE_OF: Mapping[str, str] = {
    **{name: name for name in ("probabilities", "logits", "features", "familiarity")},
    **dict.fromkeys(("probability", "prediction_set", *_RANKED, "decision"), "probabilities"),
}
_PARAMETERS = ("abstain_below", "max_error", "coverage", "top_k", "decision_threshold")
_MISTAKEN = {"threshold": "decision_threshold", "decision": "decision_threshold"}
_MAX_TOP_K = 1000


def options(parameters: Mapping[str, Scalar]) -> AnswerOptions:
    """What the request's parameters ask for; parameters of Triton's own (`timeout`, `priority`, …) are passed over.

    Raises InvalidRequest for values that are none, and for names that look like a misspelling of ours. Whether the
    model can keep what is asked is checked by `answers.check_options`.
    """
    for name in parameters.keys() - set(_PARAMETERS):
        meant = [_MISTAKEN[name]] if name in _MISTAKEN else difflib.get_close_matches(name, _PARAMETERS, 1, cutoff=0.8)
        if meant:
            raise _invalid(name, f"unknown; {meant[0]!r} may be meant (known are {', '.join(_PARAMETERS)})")
    top_k = parameters.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= _MAX_TOP_K):
        raise _invalid("top_k", f"must be a whole number from 1 to {_MAX_TOP_K}, found {shown(top_k)}")
    share = {name: _share(name, parameters[name]) for name in _PARAMETERS if name in parameters and name != "top_k"}
    threshold = share.pop("decision_threshold", None)
    return AnswerOptions(top_k=top_k, decision=None if threshold is None else {"threshold": threshold}, **share)


def _share(name: str, value: Scalar) -> float:
    if isinstance(value, bool | str) or not 0 <= value <= 1:
        raise _invalid(name, f"must be a number from 0 to 1, found {shown(value)}")
    return float(value)


def _invalid(name: str, message: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"parameter {shown(name)}: {message}", field="parameters")


def always_there(profile: Profile) -> tuple[str, ...]:
    """The outputs that any request may ask for, whatever its parameters."""
    own = ("familiarity",) if profile.get("familiarity") else ()
    binary = ("probability",) if profile.get("task") == "binary" else ()
    return (*DEFAULTS, "index", "logits", "features", "uncalibrated_confidence", "abstain", *own, *binary)


def chosen(request: InferenceRequest, profile: Profile) -> tuple[RequestedOutput, ...]:
    """The outputs to answer: those that are asked for, else DEFAULTS and what the parameters ask for.

    Raises InvalidRequest: `unknown_output` with those that exist, `missing_parameter`, `not_classifiable`.
    """
    if request.wanted is None:
        return tuple(RequestedOutput(name, request.binary) for name in (*DEFAULTS, *_asked_by_parameters(request)))
    existing = (*always_there(profile), *_with_parameters(profile))
    for wanted in request.wanted:
        if wanted.name not in existing:
            message = f"unknown output {shown(wanted.name)}; this model has {', '.join(existing)}"
            raise InvalidRequest("unknown_output", message, field="outputs")
        needed = _NEEDED_PARAMETERS.get(wanted.name, ())
        if needed and not any(name in request.parameters for name in needed):
            message = f"output {wanted.name!r} needs the parameter {' or '.join(map(repr, needed))}"
            raise InvalidRequest("missing_parameter", message, field="parameters")
        if wanted.classes is not None and wanted.name not in _CLASSIFIABLE:
            message = f"classification is for {' and '.join(_CLASSIFIABLE)}, not for {wanted.name!r}"
            raise InvalidRequest("not_classifiable", message, field="outputs")
    return request.wanted


def _asked_by_parameters(request: InferenceRequest) -> list[str]:
    asked = request.parameters
    names = ["prediction_set"] if "coverage" in asked else []
    names += ["abstain", "threshold"] if "abstain_below" in asked or "max_error" in asked else []
    names += _RANKED if "top_k" in asked else ()
    return [*names, "decision"] if "decision_threshold" in asked else names


def _with_parameters(profile: Profile) -> list[str]:
    two = profile.get("task") == "binary" or len(profile["class_names"]) == 2
    return [name for name in _NEEDED_PARAMETERS if name != "decision" or two]


def taken_outputs(wanted: Sequence[RequestedOutput]) -> tuple[str, ...]:
    """The outputs of the file that these are made of."""
    return tuple(dict.fromkeys(_MADE_OF[output.name] for output in wanted if output.name in _MADE_OF))


@dataclass(frozen=True)
class _Rows:
    """The rows of an answer and what is wished for them."""

    outputs: dict[str, np.ndarray]
    profile: Profile
    options: AnswerOptions
    wishes: DecisionPolicy

    @property
    def probs(self) -> np.ndarray:
        return self.outputs["probabilities"]

    @property
    def threshold(self) -> float:
        return abstention_threshold(self.options, self.wishes)

    @cached_property
    def best(self) -> np.ndarray:
        """(N, k) indices of the most probable classes."""
        return best_classes(self.probs, self.options.top_k or 1)

    def texts(self, indices: np.ndarray) -> np.ndarray:
        """Class names in the shape of `indices`."""
        names = self.profile["class_names"]
        if indices.size > len(names):
            found: np.ndarray = np.array(names, dtype=object)[indices]
            return found
        texts = np.empty(indices.size, dtype=object)
        texts[:] = [names[index] for index in indices.ravel().tolist()]
        return texts.reshape(indices.shape)

    def inside(self) -> np.ndarray:
        """(N, K), whether each class is in the row's prediction set."""
        assert self.wishes.guarantees is not None
        assert self.wishes.coverage is not None
        inside: np.ndarray = self.wishes.guarantees.prediction_sets(self.probs, self.wishes.coverage)
        return inside

    def decisions(self) -> np.ndarray:
        return np.array(self.wishes.decisions(self.probs), dtype=object)


_COMPUTED: Mapping[str, Callable[[_Rows], np.ndarray]] = {
    "label": lambda rows: rows.texts(rows.outputs["index"]),
    "familiarity": lambda rows: familiarity(rows.outputs),
    "probability": lambda rows: rows.probs[:, positive_index(rows.profile)],
    "abstain": lambda rows: rows.outputs["confidence"].astype(np.float64) < rows.threshold,
    "threshold": lambda rows: np.array([rows.threshold], dtype=np.float64),
    "prediction_set": lambda rows: rows.inside(),
    "top_k_index": lambda rows: rows.best.astype(np.int64, copy=False),
    "top_k_label": lambda rows: rows.texts(rows.best),
    "top_k_confidence": lambda rows: np.take_along_axis(rows.probs, rows.best, axis=1),
    "decision": lambda rows: rows.decisions(),
}


def named(
    outputs: Mapping[str, np.ndarray], profile: Profile, options: AnswerOptions, wanted: Sequence[RequestedOutput]
) -> dict[str, np.ndarray]:
    """One array for each output that is wanted, by its name.

    `outputs` are the file's, those that `taken_outputs` names. Shapes and types: probabilities and logits (N, K)
    float32, features (N, D) float32, confidence, familiarity and probability (N,) float32, uncalibrated_confidence (N,)
    float64, index (N,) int64, label and decision (N,) texts, abstain (N,) bool, threshold (1,) float64, prediction_set
    (N, K) bool, top_k_index, top_k_label and top_k_confidence (N, k) int64, texts and float32. Texts are objects, each
    `str`. With `classes`, (N, k) texts "value:index:label", the largest first.
    Raises InvalidRequest for rows that overflow and options that the model cannot keep.
    """
    wishes = acting(profile, max_error=options.max_error, coverage=options.coverage, decision=options.decision)
    computed = dict(outputs) if "index" in outputs else completed(dict(outputs))
    check_finite(computed)
    rows = _Rows(computed, profile, options, wishes)
    arrays: dict[str, np.ndarray] = {}
    for output in wanted:
        compute = _COMPUTED.get(output.name)
        array = computed[output.name] if compute is None else compute(rows)
        if output.name in ("probabilities", "features") and not np.isfinite(array).all():
            check_finite({"finite": np.isfinite(array).all(axis=1)})
        arrays[output.name] = array if output.classes is None else _classified(array, rows, output.classes)
    return arrays


def _classified(values: np.ndarray, rows: _Rows, k: int) -> np.ndarray:
    best = best_classes(values, k)
    labels = rows.texts(best).ravel().tolist()
    numbers = np.take_along_axis(values, best, axis=1).ravel().astype(str).tolist()
    texts = np.empty(best.size, dtype=object)
    texts[:] = [
        f"{number}:{index}:{label}" for number, index, label in zip(numbers, best.ravel().tolist(), labels, strict=True)
    ]
    return texts.reshape(best.shape)
