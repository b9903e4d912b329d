"""Predictions: the named columns that a decision policy makes of a model's outputs; answers and tables lay them out.

The policy of a request holds class priors, abstention, prediction sets and decisions. It is made once, before the model
runs, and refuses with a message for the client what the model cannot guarantee.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NoReturn, TypeVar

import numpy as np

from fedlas.contract.options import AnswerOptions
from fedlas.deployment import decide
from fedlas.guarantees import Guarantees, Unreachable
from service.predict.engine.profile import NO_SHIFT, Outputs, PriorShift, ServingProfile, completed
from service.predict.formats.json_inputs import listed, shown
from service.registry.errors import InvalidRequest

T = TypeVar("T")

#: The options of a request that asks for nothing beside the label.
NO_OPTIONS = AnswerOptions()
#: Numbers that are ranked at once: an order takes eight bytes for each.
_BLOCK_NUMBERS = 1 << 20


@dataclass(frozen=True, eq=False)
class DecisionPolicy:
    """Decisions on confidences, for any number of rows.

    Attributes:
        threshold: the confidence below which a prediction abstains: the client's, or what its `max_error` needs.
        answered_share: of the guarantee rows, where the threshold is that of `max_error`; None where it is not known.
        costs: (K, K) of each decision (rows) for each true class (columns).
        least_probability: of the positive class of a binary model, to decide for it.
        thresholds: (K,) by which probabilities are divided, to decide for the largest.
        shift: to the priors of the request, else of the name, else of the model; probabilities here are shifted ones.
    """

    profile: ServingProfile
    options: AnswerOptions = NO_OPTIONS
    threshold: float = 0.0
    costs: np.ndarray | None = None
    least_probability: float | None = None
    thresholds: np.ndarray | None = None
    shift: PriorShift = NO_SHIFT
    answered_share: float | None = None

    @classmethod
    def of(cls, profile: ServingProfile, options: AnswerOptions) -> DecisionPolicy:
        """Check the options against what the model can promise and decide.

        Raises InvalidRequest with the field: `no_guarantee_rows`, `max_error_unreachable` or `coverage_unreachable`
        (with the value that can be reached), `guarantee_needs_data_priors` where other priors shift what was
        promised, `no_class_shares`, `no_decision_thresholds`, `invalid_request` for unknown classes, wrong shapes and
        impossible numbers.
        """
        if options is NO_OPTIONS:
            return without_options(profile)
        threshold, share = options.abstain_below or 0.0, None
        costs = least_probability = thresholds = None
        max_error, coverage, decision = options.max_error, options.coverage, options.decision
        shift = profile.shift if options.class_priors is None else profile.shift_to(options.class_priors)
        if max_error is not None:
            guarantees = _guarantees(profile, shift, "max_error")
            promised = _promised("max_error", guarantees.threshold_for, max_error)
            if promised >= threshold:
                threshold, share = promised, guarantees.answered_share(promised)
        if coverage is not None:
            _promised("coverage", _guarantees(profile, shift, "coverage").check_coverage, coverage)
        if decision is not None:
            if set(decision) == {"threshold"}:
                least_probability = _least_probability(decision["threshold"], profile)
            elif set(decision) == {"costs"}:
                costs = _costs(decision["costs"], len(profile.class_names))
            elif set(decision) == {"keep"}:
                thresholds = _thresholds(decision["keep"], profile, shift)
            else:
                needed = 'must be {"threshold": t}, {"costs": [[…]]} or {"keep": "alarm_rate"}'
                _refuse(f"{needed}, found {listed(decision)}")
        return cls(profile, options, threshold, costs, least_probability, thresholds, shift, share)

    @cached_property
    def abstains(self) -> bool:
        return self.options.abstain_below is not None or self.options.max_error is not None

    @property
    def shifts(self) -> bool:
        return self.shift.weights is not None

    @cached_property
    def taken_outputs(self) -> tuple[str, ...]:
        """The outputs of the file that predictions are made of, beside what every batch computes for each row."""
        options, profile = self.options, self.profile
        names = ("typicality",) if profile.typicality else ()
        asked = options.top_k, options.coverage, options.decision
        if self.shifts or profile.binary or options.probabilities or asked != (None, None, None):
            return (*names, "probabilities")
        return names

    def inside(self, probs: np.ndarray) -> np.ndarray:
        """A mask of the classes in each row's prediction set (N, K); `probs` (N, K), as everywhere here."""
        guarantees, coverage = self.profile.guarantees, self.options.coverage
        assert guarantees is not None
        assert coverage is not None
        return guarantees.prediction_sets(probs, coverage)

    def sets(self, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The classes in all rows' sets (M,), row after row, the most probable first, and the size of each set (N,)."""
        order = np.argsort(-probs, axis=1, kind="stable")
        ranked = np.take_along_axis(self.inside(probs), order, axis=1)
        return order[ranked], ranked.sum(axis=1)

    def decided(self, probs: np.ndarray) -> np.ndarray | None:
        """The class to act on for each row (N,); None where no decision was asked for."""
        if self.costs is not None:
            cheapest: np.ndarray = (probs @ self.costs.T).argmin(axis=1)
            return cheapest
        if self.least_probability is not None:
            positive = self.profile.positive
            # float64, since numpy would round the threshold to the probabilities' type.
            reached = probs[:, positive].astype(np.float64) >= self.least_probability
            return np.where(reached, positive, 1 - positive)
        return None if self.thresholds is None else decide(probs, self.thresholds)


@lru_cache(maxsize=1024)
def without_options(profile: ServingProfile) -> DecisionPolicy:
    """The policy of a request that asks for nothing beside the label: of most."""
    return DecisionPolicy(profile, shift=profile.shift)


def _guarantees(profile: ServingProfile, shift: PriorShift, field: str) -> Guarantees:
    if profile.scores is not None:
        message = "the promise of a score is answered at /v1/calibrators/{id or name}/predict, as `accept` of each row"
        raise InvalidRequest("no_guarantee_rows", message, field=field)
    if profile.guarantees is None:
        message = (
            "nothing can be promised for this model: promises are made for the calibrated model of a job whose dataset "
            "has rows in the split 'guarantee' (a model that a job left unchanged carries none)"
        )
        raise InvalidRequest("no_guarantee_rows", message, field=field)
    if not shift.keeps_promises:
        message = (
            "promises hold where the classes have the shares of the dataset, and these answers are for other class "
            "priors; ask with `class_priors` as the model's record has them under `class_priors.shares`"
        )
        raise InvalidRequest("guarantee_needs_data_priors", message, field=field)
    return profile.guarantees


def _promised(field: str, check: Callable[[float | Mapping[str, float]], T], value: float | Mapping[str, float]) -> T:
    try:
        return check(value)
    except Unreachable as error:
        raise InvalidRequest(f"{field}_unreachable", str(error), field=field) from error
    except ValueError as error:
        raise InvalidRequest("invalid_request", str(error), field=field) from error


def _least_probability(value: object, profile: ServingProfile) -> float:
    num_classes = len(profile.class_names)
    if not profile.binary and num_classes != 2:
        _refuse(f'"threshold" is for binary models; this one has {num_classes} classes: give "costs"')
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        _refuse(f'"threshold" must be a probability between 0 and 1, found {shown(value)}')
    return float(value)


def _costs(value: object, num_classes: int) -> np.ndarray:
    needed = f"{num_classes} rows (decision) of {num_classes} numbers (truth), in the order of the model's classes"
    rows = value if isinstance(value, list) else []
    if [len(row) if isinstance(row, list) else -1 for row in rows] != [num_classes] * num_classes:
        _refuse(f'"costs" must be {needed}')
    numbers: Sequence[object] = [number for row in rows for number in row]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        _refuse(f'"costs" must be {needed}; something in it is no number')
    try:
        costs = np.array(rows, dtype=np.float64)
    except OverflowError:
        _refuse('"costs" holds an integer that is too large')
    if not np.isfinite(costs).all() or (costs < 0).any():
        _refuse(
            '"costs" must be finite and not negative (adding the same number to a whole column changes no decision)'
        )
    return costs


def _thresholds(keep: object, profile: ServingProfile, shift: PriorShift) -> np.ndarray:
    """For shifted probabilities: priors change the probabilities of a row, and not its decision."""
    if keep != "alarm_rate":
        _refuse(f'"keep" must be "alarm_rate", found {shown(keep)}')
    if profile.thresholds is None:
        message = (
            "this model has no decision thresholds: they are fitted with the calibrator of a job (a model that is "
            "uploaded, was left unchanged, or is of an earlier version carries none)"
        )
        raise InvalidRequest("no_decision_thresholds", message, field="decision")
    return profile.thresholds if shift.weights is None else profile.thresholds * shift.weights


def _refuse(message: str) -> NoReturn:
    raise InvalidRequest("invalid_request", f"decision: {message}", field="decision")


class Predictions:
    """The columns of N rows, each computed when it is first read.

    Args:
        outputs: logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,) and, where the
            file has them, features (N, D) and typicality (N,); or what `completed` made of them, of which the policy
            names what it takes.
        first_row: number of the first row, for errors.

    Raises:
        InvalidRequest: `non_finite_output` where the model computes no number: JSON has no NaN.
    """

    def __init__(self, outputs: Outputs, policy: DecisionPolicy, *, first_row: int = 0) -> None:
        self._computed = outputs if "index" in outputs else completed(dict(outputs))
        self.policy = policy
        if "finite" in self._computed:
            check_finite(self._computed["finite"], first_row=first_row)

    @cached_property
    def outputs(self) -> Outputs:
        """Outputs of the file, at the priors that the policy asks for."""
        return self.policy.shift(self._computed)

    @property
    def index(self) -> np.ndarray:
        """(N,) the most probable class."""
        return self.outputs["index"]

    @property
    def confidence(self) -> np.ndarray:
        """(N,) the largest calibrated probability."""
        return self.outputs["confidence"]

    @property
    def uncalibrated_confidence(self) -> np.ndarray:
        """(N,) float64, the largest softmax of the same graph's logits."""
        return self.outputs["uncalibrated_confidence"]

    @property
    def probabilities(self) -> np.ndarray:
        return self.outputs["probabilities"]

    @property
    def abstain(self) -> np.ndarray:
        """(N,) whether the confidence is below the threshold; compared as float64, since the threshold is one."""
        abstain: np.ndarray = self.confidence.astype(np.float64) < self.policy.threshold
        return abstain

    @property
    def probability(self) -> np.ndarray | None:
        """(N,) of the positive class; None unless the model is binary."""
        return self.probabilities[:, self.policy.profile.positive] if self.policy.profile.binary else None

    @property
    def typicality(self) -> np.ndarray | None:
        """(N,) share of the calibration rows that were at least as strange; a distance that overflows is far."""
        shares = self.outputs.get("typicality")
        return None if shares is None else np.nan_to_num(shares, nan=0.0)

    @cached_property
    def best(self) -> np.ndarray:
        """(N, k) the most probable classes, the best first."""
        return best_classes(self.probabilities, self.policy.options.top_k or 1)

    @property
    def best_confidence(self) -> np.ndarray:
        """(N, k) their probabilities."""
        return np.take_along_axis(self.probabilities, self.best, axis=1)

    @property
    def decision(self) -> np.ndarray | None:
        """(N,) the class to act on; None where no decision was asked for."""
        return None if self.policy.options.decision is None else self.policy.decided(self.probabilities)

    @property
    def abstained(self) -> int:
        if not self.policy.abstains:
            return 0
        if len(self.confidence) == 1:  # numpy's calls take ten times as long
            return int(float(self.confidence[0]) < self.policy.threshold)
        return int(np.count_nonzero(self.abstain))


def check_finite(finite: np.ndarray, *, first_row: int = 0) -> None:
    """Raise InvalidRequest `non_finite_output` with the first row that is not finite, counted from `first_row`."""
    if not finite.all():
        row = first_row + int(np.flatnonzero(~finite)[0])
        raise InvalidRequest("non_finite_output", no_confidence(row), field="inputs")


def no_confidence(row: int) -> str:
    what = "the model's own numbers overflow on these values, or it cannot read missing ones"
    return f"row {row}: {what}; no confidence can be given"


def best_classes(probs: np.ndarray, k: int) -> np.ndarray:
    """(N, k) indices of the most probable classes, the best first; of equal ones the first."""
    if probs.size <= _BLOCK_NUMBERS or len(probs) == 1:
        return np.argsort(-probs, axis=1, kind="stable")[:, :k]
    step = max(1, _BLOCK_NUMBERS // probs.shape[1])
    return np.concatenate([best_classes(probs[start : start + step], k) for start in range(0, len(probs), step)])
