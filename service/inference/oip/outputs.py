"""The outputs that a request of the protocol asks for, by name and by parameter, and the answer options it sets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pydantic import JsonValue, TypeAdapter, ValidationError

from service.inference.decision_policy import NO_OPTIONS
from service.inference.excerpts import shown
from service.inference.oip.requests import InferenceRequest, RequestedOutput, Scalar
from service.inference.profile import ServingProfile
from service.registry.answer_options import AnswerOptions, GivenPriors
from service.registry.errors import InvalidRequest

#: What goes back where the client names no outputs; what its parameters ask for comes on top.
DEFAULTS = ("probabilities", "confidence", "label")
_DEFAULTS = {binary: tuple(RequestedOutput(name, binary) for name in DEFAULTS) for binary in (False, True)}
#: Outputs whose columns are the classes, which the classification extension can rank.
_CLASSIFIABLE = ("probabilities", "logits")
_RANKED = ("top_k_index", "top_k_label", "top_k_confidence")
#: Outputs that are there only with one of these parameters.
_NEEDED_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "threshold": ("abstain_below", "max_error"),
    "prediction_set": ("coverage",),
    **dict.fromkeys(_RANKED, ("top_k",)),
    "decision": ("decision_threshold", "decision_keep"),
}
#: Outputs of the file that a request may take, and those that an output of the protocol is computed from; all others
#: are made of the columns that every batch has.
_MADE_OF: Mapping[str, str] = {
    **{name: name for name in ("probabilities", "logits", "features", "familiarity")},
    **dict.fromkeys(("probability", "prediction_set", *_RANKED, "decision"), "probabilities"),
}
_SHARES = ("abstain_below", "max_error", "coverage", "decision_threshold")
_PARAMETERS = (*_SHARES, "top_k", "decision_keep", "class_priors")
_MISTAKEN = {"threshold": "decision_threshold", "decision": "decision_threshold"}
_MAX_TOP_K = 1000
_PRIORS: TypeAdapter[dict[str, float] | None] = TypeAdapter(GivenPriors)


def options(parameters: Mapping[str, Scalar]) -> AnswerOptions:
    """The answer options among the request's parameters; Triton's own (`timeout`, `priority`, …) are passed over.

    Raises InvalidRequest for impossible values, and for names that look like a misspelling of ours. Whether the model
    can promise what is asked is checked by the decision policy.
    """
    if not parameters:
        return NO_OPTIONS
    for name in parameters.keys() - set(_PARAMETERS):
        meant = [_MISTAKEN[name]] if name in _MISTAKEN else difflib.get_close_matches(name, _PARAMETERS, 1, cutoff=0.8)
        if meant:
            raise _invalid(name, f"unknown; {meant[0]!r} may be meant (known are {', '.join(_PARAMETERS)})")
    top_k = parameters.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= _MAX_TOP_K):
        raise _invalid("top_k", f"must be a whole number from 1 to {_MAX_TOP_K}, found {shown(top_k)}")
    share = {name: _share(name, parameters[name]) for name in _SHARES if name in parameters}
    threshold, keep = share.pop("decision_threshold", None), parameters.get("decision_keep")
    if threshold is not None and keep is not None:
        raise _invalid("decision_keep", "a decision has a threshold or keeps something, not both")
    decision: dict[str, JsonValue] | None = None if threshold is None else {"threshold": threshold}
    return AnswerOptions(
        top_k=top_k,
        decision=decision if keep is None else {"keep": keep},
        class_priors=_priors(parameters.get("class_priors")),
        probabilities=None,  # an output by that name
        **share,
    )


def _priors(value: Scalar | None) -> dict[str, float] | None:
    """Class priors; parameters of the protocol are scalars, so they are JSON in a text."""
    if value is None:
        return None
    try:
        return _PRIORS.validate_json(value if isinstance(value, str) else b"")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise _invalid("class_priors", f"must be a JSON object with a share for each class: {found[:300]}") from error


def _share(name: str, value: Scalar) -> float:
    if isinstance(value, bool | str) or not 0 <= value <= 1:
        raise _invalid(name, f"must be a number from 0 to 1, found {shown(value)}")
    return float(value)


def _invalid(name: str, message: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"parameter {shown(name)}: {message}", field="parameters")


def always_there(profile: ServingProfile) -> tuple[str, ...]:
    """The outputs that any request may ask for, whatever its parameters."""
    own = ("familiarity",) if profile.familiarity else ()
    binary = ("probability",) if profile.binary else ()
    return (*DEFAULTS, "index", "logits", "features", "uncalibrated_confidence", "abstain", *own, *binary)


def chosen(request: InferenceRequest, profile: ServingProfile) -> tuple[RequestedOutput, ...]:
    """The outputs to answer: those that are asked for, else DEFAULTS and what the parameters ask for.

    Raises InvalidRequest: `unknown_output` with those that exist, `missing_parameter`, `not_classifiable`.
    """
    if request.wanted is None:
        asked = _asked_by_parameters(request.parameters) if request.parameters else ()
        return (*_DEFAULTS[request.binary], *(RequestedOutput(name, request.binary) for name in asked))
    existing = _existing(profile)
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


def _asked_by_parameters(asked: Mapping[str, Scalar]) -> list[str]:
    names = ["prediction_set"] if "coverage" in asked else []
    names += ["abstain", "threshold"] if "abstain_below" in asked or "max_error" in asked else []
    names += _RANKED if "top_k" in asked else ()
    return [*names, "decision"] if asked.keys() & set(_NEEDED_PARAMETERS["decision"]) else names


@lru_cache(maxsize=1024)
def _existing(profile: ServingProfile) -> tuple[str, ...]:
    decides = profile.binary or len(profile.class_names) == 2 or profile.thresholds is not None
    return (*always_there(profile), *(name for name in _NEEDED_PARAMETERS if name != "decision" or decides))


def taken_outputs(wanted: Sequence[RequestedOutput], *, shifted: bool = False) -> tuple[str, ...]:
    """The outputs of the file that these are made of; of `shifted` rows nearly all are made of probabilities."""
    names = [_MADE_OF[output.name] for output in wanted if output.name in _MADE_OF]
    return tuple(dict.fromkeys(["probabilities", *names] if shifted else names))
