"""Selection on calibration rows: calibrators are fitted, pooled and compared by cross-fitting, candidates ranked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import CALIBRATORS, LogPool, Pool, Uniform
from fedlas.calibrators.feature_map import MAX_PRODUCT, cross_fit_features
from fedlas.calibrators.linear import Compressed, compressed, is_saturated
from fedlas.calibrators.pool import log_pool_weights, log_pooled, log_probs, mixture_weights, pooled, without_small
from fedlas.race.results import (
    CandidateResult,
    CrossFitted,
    Doubles,
    Floats,
    clearly_positive,
    cross_fitted_logits,
    group_codes,
    make_folds,
    row_nll,
    score,
)

Integers = NDArray[np.int64]
#: Weights (M,) of members on these rows (indices), which count by these shares.
_Fit = Callable[[Integers, Doubles], Doubles]
#: Saturated scores are compressed where this leaves at most such a share of the loss.
_MAX_COMPRESSED = 0.9
#: Out-of-fold rows show what exceeds its limit by so many standard errors (one-sided, 5 %).
_ERRORS_SHOWN = 1.64
#: With fewer rows than this a map of the features cannot be cross-fitted sensibly.
_MIN_ROWS = 200
_FINE_FOLDS = 10
#: A calibrator that is only watched is fitted on this many rows: a temperature of 17,000 by 1,000 takes 5 s.
_GLANCED_ROWS = 2000
#: From so many on, four fifths of them teach a map nearly all it can learn: finer folds only take time.
_MANY_ROWS = 2000
#: Seconds that the pool of the others takes per row and class: measured 3 to 9 · 10⁻⁵.
_POOL_SECONDS = 6e-5
#: Seconds on one core that such a map takes at least, and per row, class and (feature + 40) besides: of processor time
#: 1.6 to 2.2 s for the smallest, and 0.9 to 4.9 · 10⁻⁷ for the largest of 1,000 to 20,000 rows.
_MIN_SECONDS = 1.0
_SECONDS = 3e-7
_PER_CLASS = 40


def _cross_fitted_weights(fit: _Fit, shares: Doubles, folds: Sequence[Integers]) -> tuple[Doubles, Doubles]:
    """Weights (M,) of all rows, and of each row (M, N) those of the other folds."""
    everything = np.arange(len(shares))
    weights = fit(everything, shares)
    by_row = np.empty((len(weights), len(shares)))
    for rows in folds:
        others = np.delete(everything, rows)
        others = others if len(others) else rows
        by_row[:, rows] = fit(others, shares[others] / shares[others].sum())[:, None]
    return weights, by_row


@dataclass
class CalibratorSelector:
    """Calibration rows: their targets (N,), groups, sampling weights (N,), and which calibrators may compete.

    `base_correct` (N,) says which rows the uploaded model gets right; without it accuracies are not compared.
    A calibrator that reads features competes only where fitting it takes no more than about `seconds`, by an estimate
    that no budget enters, so that a seed gives the same race on every machine.
    """

    targets: NDArray[np.int64]
    names: Sequence[str]
    reads_features: bool
    groups: ArrayLike | None = None
    weights: Doubles | None = None
    seed: int = 0
    base_correct: NDArray[np.bool_] | None = None
    max_accuracy_drop: float = 1.0
    seconds: float = float("inf")
    #: Seconds of the last pool, without a map of the features.
    pool_seconds: float = field(default=0.0, init=False)

    @cached_property
    def folds(self) -> list[NDArray[np.int64]]:
        return make_folds(self.targets, groups=self.groups, seed=self.seed)

    @cached_property
    def _clusters(self) -> NDArray[np.int64]:
        """Groups as numbers 0, 1, …; every row its own where there are none, or only one."""
        codes = group_codes(self.groups, len(self.targets))
        return codes if codes.max() else np.arange(len(codes))

    @property
    def has_groups_to_leave_out(self) -> bool:
        """True where there are groups, or rows of their own, beside those that are left out."""
        return int(group_codes(self.groups, len(self.targets)).max()) > 0

    def of_rows(self, rows: NDArray[np.int64]) -> CalibratorSelector:
        return replace(
            self,
            targets=self.targets[rows],
            groups=None if self.groups is None else np.asarray(self.groups)[rows],
            weights=None if self.weights is None else self.weights[rows],
            base_correct=None if self.base_correct is None else self.base_correct[rows],
        )

    def fit_simplest(self, logits: Floats) -> CrossFitted:
        """The simplest calibrator, which every candidate gets; the best ones get a selected one later."""
        return self._fit(logits, self.names[0])

    def nll_at_a_glance(self, logits: Floats) -> float:
        """The NLL with the simplest calibrator, on some of the very rows that it is fitted on: it decides nothing."""
        some = np.arange(0, len(self.targets), -(-len(self.targets) // _GLANCED_ROWS))
        rows = self.of_rows(some)
        calibrator = CALIBRATORS[self.names[0]]().fit(logits[some], rows.targets, weights=rows.weights)
        return rows.nll(calibrator(logits[some]))

    def calibrate(self, logits: Floats | Doubles, features: Floats | None = None) -> CrossFitted:
        """The pool of all calibrators of the logits, and of the map of the features where they are given.

        Its weights are cross-fitted too, so that it can lose against a single calibrator.
        """
        if self._gains_by_compression(logits):
            return _on_compressed(self._calibrate(compressed(logits), features))
        return self._calibrate(np.asarray(logits, np.float64), features)

    def _calibrate(self, scores: Doubles, features: Floats | None) -> CrossFitted:
        reads = features is not None and self._affords(scores, features)
        if len(self.names) == 1 and not reads:
            return self._fit(scores, self.names[0])
        began = time.perf_counter()
        members = [member for name in self.names if (member := self._member(scores, name)) is not None]
        self.pool_seconds = time.perf_counter() - began
        if features is not None and reads:
            fine_folds = make_folds(self.targets, groups=self.groups, seed=self.seed, num_folds=_FINE_FOLDS)
            mapped = cross_fit_features(
                scores,
                features,
                self.targets,
                self.folds,
                weights=self.weights,
                fine_folds=fine_folds if len(self.targets) < _MANY_ROWS else None,
            )
            members.append(CrossFitted(*mapped))
        return self._pool([*members, CrossFitted(Uniform(), np.zeros_like(scores))])

    def temperature(self, logits: Floats | Doubles) -> CrossFitted:
        """A temperature alone, which keeps every label."""
        if self._gains_by_compression(logits):
            return _on_compressed(self._fit(compressed(logits), "temperature"))
        return self._fit(logits, "temperature")

    def finalists(self, pool: CrossFitted, temperature: CrossFitted) -> dict[str, CrossFitted]:
        """The finalists of one network, by the names of the gate.

        `post_hoc` is the log-linear pool of the temperature and the pool of calibrators; where that may move labels
        `same_labels`, the temperature alone, stands behind it.
        """
        if "temperature" not in self.names or pool.calibrator.keeps_order:
            return {"post_hoc": pool}
        return {"same_labels": temperature, "post_hoc": self.log_pool([temperature, pool])}

    def log_pool(self, members: Sequence[CrossFitted]) -> CrossFitted:
        """The log-linear mixture of the highest likelihood of calibrators of one network."""
        weights, held_out = self.log_mixed([one.held_out for one in members])
        kept = [member.calibrator for member, weight in zip(members, weights, strict=True) if weight]
        return CrossFitted(LogPool(kept, weights[weights > 0]), held_out)

    def log_mixed(self, held_out: Sequence[Doubles]) -> tuple[Doubles, Doubles]:
        """Weights (M,) of the log-linear mixture of M cross-fitted logits (N, K), and the mixture's.

        A member with a logit that is not finite has no weight.

        Raises:
            ValueError: no member's logits are finite.
        """
        finite = np.array([bool(np.isfinite(one).all()) for one in held_out])
        if not finite.any():
            raise ValueError("logits must be finite in one member at least")
        logs = [log_probs(one) for one, sound in zip(held_out, finite, strict=True) if sound]

        def fit(rows: Integers, by: Doubles) -> Doubles:
            return log_pool_weights([one[rows] for one in logs], self.targets[rows], by)

        fitted, by_row = _cross_fitted_weights(fit, self._shares, self.folds)
        weights = np.zeros(len(held_out))
        weights[finite] = fitted
        return weights, log_pooled(logs, by_row[..., None])

    def _pool(self, members: Sequence[CrossFitted]) -> CrossFitted:
        """The linear mixture of the highest likelihood, whose weights are cross-fitted too; `Uniform` comes last."""
        held = [one.held_out for one in members]
        true_probs = np.exp(-np.stack([self.row_nll(one) for one in held], axis=1))

        def fit(rows: Integers, by: Doubles) -> Doubles:
            chosen, uniform = true_probs[rows], len(members) - 1  # which guards every row, by a weight of 0.001
            return without_small(lambda kept: mixture_weights(chosen[:, kept], by), len(members), exempt=uniform)

        weights, by_row = _cross_fitted_weights(fit, self._shares, self.folds)
        kept = [member.calibrator for member, weight in zip(members, weights, strict=True) if weight]
        return CrossFitted(kept[0] if len(kept) == 1 else Pool(kept, weights[weights > 0]), pooled(held, by_row))

    @cached_property
    def _shares(self) -> Doubles:
        """Weights of the rows (N,), summing to 1."""
        weights = np.ones(len(self.targets)) if self.weights is None else self.weights
        return np.asarray(weights / weights.sum(), np.float64)

    def _fit(self, logits: Floats | Doubles, name: str) -> CrossFitted:
        """A calibrator fitted on all rows and cross-fitted.

        Raises:
            ValueError, ArithmeticError, numpy.linalg.LinAlgError: a fold or all rows do not determine it.
        """
        kind, scores = CALIBRATORS[name], np.asarray(logits, np.float64)
        held_out = cross_fitted_logits(kind, scores, self.targets, self.folds, self.weights)
        return CrossFitted(kind().fit(scores, self.targets, weights=self.weights), held_out)

    def _member(self, scores: Doubles, name: str) -> CrossFitted | None:
        """A cross-fitted calibrator; None where a fold or all rows do not determine it."""
        try:
            fitted = self._fit(scores, name)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return None
        return fitted if np.isfinite(fitted.held_out).all() else None

    def _gains_by_compression(self, logits: Floats | Doubles) -> bool:
        """True where scores are saturated, and a temperature of compressed ones loses far less on rows left out."""
        # By a share, since log-odds of 10⁸ have a mean loss without a standard error that could be trusted; by so
        # much, since networks, which are a little saturated too, gain nothing by it on the whole.
        if not is_saturated(logits):
            return False
        plain, packed = (self._fit(scores, "temperature").held_out for scores in (logits, compressed(logits)))
        return self.nll(packed) < _MAX_COMPRESSED * self.nll(plain)

    def post_hoc(self, calibrated: CrossFitted, *, seconds: float = 0.0) -> CandidateResult:
        """Result of the uploaded network with this calibrator, which took so many seconds."""
        name = calibrated.calibrator.name
        method = "temperature" if name == "temperature" else "post_hoc"
        result = self.scored(
            CandidateResult(f"uploaded + {name}", method, {}, "none", "finished", "", seconds), calibrated
        )
        return replace(result, status="finished", reason="")  # nothing is left if the upload itself is dropped

    def scored(self, result: CandidateResult, calibrated: CrossFitted) -> CandidateResult:
        reason = self._too_inaccurate(calibrated)
        return replace(
            result,
            status="dropped" if reason else "finished",
            reason=reason,
            calibration=score(calibrated.held_out, self.targets, self.weights),
            calibrator=calibrated.calibrator,
        )

    def _too_inaccurate(self, calibrated: CrossFitted) -> str:
        """Reason to drop a candidate for its accuracy, or an empty text; a drop that chance explains is none."""
        if self.base_correct is None:
            return ""
        # On 300 rows the limit is one answer, and a fold's network has seen fewer fresh rows than the refit will.
        lost = self.base_correct.astype(np.float64) - (calibrated.held_out.argmax(axis=1) == self.targets)
        if not clearly_positive(lost - self.max_accuracy_drop, self._clusters, _ERRORS_SHOWN, self.weights):
            return ""
        drop = 100 * float(self._shares @ lost)
        return f"its accuracy on the calibration rows is {drop:.2f} points under the uploaded model's"

    def nll(self, held_out: Doubles) -> float:
        return float(self._shares @ self.row_nll(held_out))

    def row_nll(self, held_out: Doubles) -> Doubles:
        return row_nll(held_out, self.targets)

    def expected_seconds(self, logits: Floats | Doubles, features: Floats | None = None) -> float:
        seconds = _POOL_SECONDS * logits.size if len(self.names) > 1 else 0.0
        if features is not None and self._affords(logits, features):
            seconds += _MIN_SECONDS + _SECONDS * logits.size * (features.shape[1] + _PER_CLASS)
        return seconds

    def _affords(self, logits: Floats | Doubles, features: Floats) -> bool:
        enough = len(self.targets) >= _MIN_ROWS and np.isfinite(features).all()
        return bool(self.reads_features and enough and logits.size <= most_logits(features.shape[1], self.seconds))


def most_logits(feature_dim: int, seconds: float) -> float:
    """Calibration rows times classes from which on a map of so many features is not fitted within so many seconds."""
    return min(MAX_PRODUCT / feature_dim, (seconds - _MIN_SECONDS) / (_SECONDS * (feature_dim + _PER_CLASS)))


def _on_compressed(fitted: CrossFitted) -> CrossFitted:
    return CrossFitted(Compressed(fitted.calibrator), fitted.held_out)
