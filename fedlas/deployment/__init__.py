"""Deployment: what a model is used for, kept apart from what it knows: class priors, and thresholds of decisions.

Class priors are how often each class occurs where a model is used, which its calibration rows may not show.

Where two populations differ in nothing but the shares π of their classes (label shift), their posteriors differ by the
ratio of these shares: p'(k | x) ∝ p(k | x) · π'_k / π_k (Saerens, Latinne and Decaestecker 2002, Neural Computation
14(1), equation 2.4). In log-odds that is one vector (K,), the same for every row.

Decision thresholds are one number per class, with which a calibrated model answers as often as the uploaded one did.

A calibrator that is right about a rare class seldom finds it the most probable one, so that the argmax stops raising
alarms which the uploaded model, by being wrong about its probabilities, did raise. The decision argmax_k p_k / t_k
keeps the probabilities and moves the decisions alone. That each class k gets its number of rows c_k is an optimal
transport of rows to classes with the gain log p_ik; log t_k are the prices of its dual problem,

    min_s  Σ_i max_k (log p_ik − s_k) + Σ_k c_k s_k,    s = log t,

whose gradient in s_k is c_k minus the number of rows that are answered k. It is minimised with the maximum softened by
a temperature that falls (entropic transport, Cuturi 2013, arXiv 1306.0895), then each price is set exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.contract.options import check_classes, check_priors

Floats = NDArray[np.float64]
#: The constant (K,) float32 of a calibrated file, and the input that is made of it (with a number behind it where the
#: uploaded graph has an input of this name); and the property of its metadata.
CLASS_PRIORS = "class_priors"
#: A class without a row counts as this many: its share is small and still something to divide by.
_ABSENT = 0.5
#: Priors that differ by no more than this are the same: they went through JSON.
_SAME = 1e-6


@dataclass(frozen=True)
class ClassPriors:
    """The class shares (K,) that a calibrator has learnt, and the `default` (K,) that its answers are for."""

    shares: Floats
    default: Floats

    @classmethod
    def from_dict(cls, document: Mapping[str, Mapping[str, float]], class_names: Sequence[str]) -> ClassPriors:
        shares, default = ([document[part][name] for name in class_names] for part in ("shares", "default"))
        return cls(np.array(shares), np.array(default))

    def as_dict(self, class_names: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            "shares": dict(zip(class_names, self.shares.tolist(), strict=True)),
            "default": dict(zip(class_names, self.default.tolist(), strict=True)),
        }

    @property
    def shifted(self) -> bool:
        """True where the answers are for other priors than those of the calibration rows."""
        return not same(self.default, self.shares)


def priors_of(given: Mapping[str, float], class_names: Sequence[str]) -> Floats:
    """Priors (K,) by class name, in the order of the classes; they sum to exactly one.

    Raises:
        ValueError: a name is unknown, a class is missing, or as `check_priors`.

    >>> priors_of({"fraud": 0.002, "fine": 0.998}, ["fine", "fraud"]).tolist()
    [0.998, 0.002]
    """
    check_classes(given, class_names)
    check_priors(given)
    priors = np.array([given[name] for name in class_names], dtype=np.float64)
    return np.asarray(priors / priors.sum())


def class_shares(targets: ArrayLike, num_classes: int, *, weights: ArrayLike | None = None) -> Floats:
    """The share (K,) of each class among class indices (N,) with weights (N,); one without a row counts as half a row.

    >>> class_shares([0, 0, 0, 1], 2).tolist()
    [0.75, 0.25]
    """
    labels = np.asarray(targets)
    rows = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    counts = np.bincount(labels, rows / rows.mean(), minlength=num_classes).astype(np.float64)
    counts[counts == 0] = _ABSENT
    return np.asarray(counts / counts.sum())


def shifted_logits(logits: ArrayLike, priors: ArrayLike, shares: ArrayLike) -> Floats:
    """Logits (N, K) of a population with these `priors` (K,), of logits (N, K) of one with these `shares` (K,).

    >>> even = np.log([[0.5, 0.5]])
    >>> np.exp(shifted_logits(even, [0.1, 0.9], [0.5, 0.5])).round(3).tolist()
    [[0.1, 0.9]]
    """
    ratio = np.asarray(priors, np.float64) / np.asarray(shares, np.float64)
    return np.asarray(logits, np.float64) + np.log(ratio)


def same(priors: Floats, others: Floats) -> bool:
    return bool(np.allclose(priors, others, rtol=_SAME, atol=0))


#: Rows of more numbers are drawn: the rates of so many are known well enough.
_MAX_NUMBERS = 1_000_000
_TEMPERATURES = (1.0, 0.1, 0.02)
_ITERATIONS = 60
_EXACT_STEPS = 100
#: The share of rows, twice, that may be answered otherwise: of few rows none.
_NEGLIGIBLE = 1e-3
_MIN_PROB = 1e-300
_MIN_LOG_PROB = -600.0


def keep_alarm_rate(
    held_out: ArrayLike, uploaded: ArrayLike, *, weights: ArrayLike | None = None, seed: int = 0
) -> Floats:
    """Thresholds (K,) that sum to one: argmax p_k / t_k answers each class as often as the uploaded model does.

    With two classes t_1 is the threshold of p_1. Where the argmax answers alike already, all are equal. A class that
    the uploaded model never answers gets a threshold that no row reaches.

    Args:
        held_out: calibrated probabilities (N, K) of rows that the calibrator was not fitted on.
        uploaded: the uploaded model's probabilities or logits (N, K) of the same rows.

    Raises:
        ValueError: shapes differ, or there is no row.

    >>> calibrated = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    >>> alarming = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]
    >>> keep_alarm_rate(calibrated, alarming).round(3).tolist()
    [0.754, 0.246]
    """
    probs, before = np.asarray(held_out, np.float64), np.asarray(uploaded)
    if probs.ndim != 2 or probs.shape != before.shape or len(probs) == 0:
        raise ValueError(f"held_out and uploaded must both be (N, K) with N >= 1, got {probs.shape}, {before.shape}")
    rows = np.ones(len(probs)) if weights is None else np.asarray(weights, np.float64)
    if rows.shape != (len(probs),) or not rows.sum() > 0:
        raise ValueError(f"weights must be ({len(probs)},) and not all zero, got {rows.shape}")
    chosen = _drawn(len(probs), probs.shape[1], seed)
    rows = rows[chosen] / rows[chosen].sum()
    rates = np.asarray(np.bincount(before[chosen].argmax(axis=1), rows, probs.shape[1]), np.float64)
    prices = _Prices(np.log(np.maximum(probs[chosen], _MIN_PROB)), rates, rows).found()
    thresholds = np.exp(np.maximum(prices - prices.max(), _MIN_LOG_PROB))
    return np.asarray(thresholds / thresholds.sum())


def decide(probs: ArrayLike, thresholds: ArrayLike) -> NDArray[np.int64]:
    """The class (N,) to act on: argmax p_k / t_k of probabilities (N, K).

    >>> decide([[0.7, 0.3], [0.9, 0.1]], [0.75, 0.25]).tolist()
    [1, 0]
    """
    return np.asarray((np.asarray(probs, np.float64) / np.asarray(thresholds, np.float64)).argmax(axis=1))


def _drawn(num_rows: int, num_classes: int, seed: int) -> slice | NDArray[np.int64]:
    most = max(1, _MAX_NUMBERS // num_classes)
    if num_rows <= most:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(num_rows, most, replace=False))


class _Prices:
    """The dual problem: log-probabilities (N, K), the rate (K,) of each class, and rows (N,) that sum to one."""

    def __init__(self, gains: Floats, rates: Floats, rows: Floats) -> None:
        self.gains, self.rates, self.rows = gains, rates, rows
        self.answered = np.flatnonzero(rates)

    def found(self) -> Floats:
        """The prices (K,); all are zero where the argmax has these rates."""
        prices = np.zeros(len(self.rates))
        if self._missed(prices) == 0:
            return prices
        inner = _Prices(self.gains[:, self.answered], self.rates[self.answered], self.rows)
        prices[self.answered] = inner._exact(inner._softened())
        # A class that is never answered has a price without a bound: it is set last.
        best, highest = (self.gains - prices)[:, self.answered].max(axis=1), prices[self.answered].max()
        for k in np.flatnonzero(self.rates == 0):
            prices[k] = max(highest, float((self.gains[:, k] - best).max()) + 1e-9)
        return prices

    def _missed(self, prices: Floats) -> float:
        """The share of rows, twice, by which classes are answered too often or too seldom."""
        return float(np.abs(self._answers(prices) - self.rates).sum().round(12))

    def _answers(self, prices: Floats) -> Floats:
        return np.asarray(np.bincount((self.gains - prices).argmax(axis=1), self.rows, len(prices)), np.float64)

    def _softened(self) -> Floats:
        from scipy.optimize import minimize  # takes a tenth of a second to import

        prices = np.zeros(len(self.rates))
        for temperature in _TEMPERATURES if len(prices) > 1 else ():
            optimum = minimize(
                self._dual, prices, (temperature,), "L-BFGS-B", jac=True, options={"maxiter": _ITERATIONS}
            )
            prices = np.asarray(optimum.x - optimum.x.mean())
        return prices

    def _dual(self, prices: Floats, temperature: float) -> tuple[float, Floats]:
        soft = (self.gains - prices) / temperature
        largest = soft.max(axis=1, keepdims=True)
        np.exp(soft - largest, out=soft)
        totals = soft.sum(axis=1, keepdims=True)
        value = temperature * float(self.rows @ (largest + np.log(totals))[:, 0]) + float(self.rates @ prices)
        return value, self.rates - self.rows @ (soft / totals)

    def _exact(self, prices: Floats) -> Floats:
        """Set the price of the class that misses its rate most, again and again; the best prices seen."""
        best, least = prices, self._missed(prices)
        for step in range(_EXACT_STEPS if least > _NEGLIGIBLE else 0):
            missed = np.abs(self._answers(prices) - self.rates)
            k = int(missed.argmax()) if step % 2 == 0 else step // 2 % len(prices)
            prices = prices.copy()
            prices[k] = self._price(k, prices)
            if (now := self._missed(prices)) < least:
                best, least = prices, now
            if least <= _NEGLIGIBLE:
                break
        return best

    def _price(self, k: int, prices: Floats) -> float:
        """The price at which class k has its rate, the others given: in the middle of all such."""
        values = self.gains - prices
        values[:, k] = -np.inf
        margins = self.gains[:, k] - values.max(axis=1)
        order = np.argsort(-margins, kind="stable")
        ranked, reached = margins[order], np.cumsum(self.rows[order])
        ends = np.flatnonzero(np.diff(ranked) < 0)  # equal margins stay together
        if len(ends) == 0:
            return float(prices[k])
        place = ends[np.abs(reached[ends] - self.rates[k]).argmin()]
        return float((ranked[place] + ranked[place + 1]) / 2)


@dataclass(frozen=True)
class Deployment:
    """The class priors of a calibrated model, and the thresholds that keep the uploaded model's alarm rates.

    Attributes:
        thresholds: (K,) of probabilities at the shares of the calibration rows.
    """

    priors: ClassPriors
    thresholds: Floats

    @classmethod
    def fit(
        cls,
        held_out: ArrayLike,
        uploaded: ArrayLike,
        targets: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        priors: Floats | None = None,
    ) -> Deployment:
        """Fit on calibration rows: calibrated probabilities (N, K) out of fold, uploaded scores, class indices (N,).

        The priors (K,) of the answers are the shares of these rows unless they are given.
        """
        shares = class_shares(targets, np.shape(held_out)[1], weights=weights)
        return cls(
            ClassPriors(shares, shares if priors is None else priors),
            keep_alarm_rate(held_out, uploaded, weights=weights),
        )

    def properties(self, class_names: Sequence[str]) -> dict[str, str]:
        """The metadata properties of a file: `class_priors` and `decisions`, as JSON."""
        thresholds = dict(zip(class_names, self.default_thresholds.tolist(), strict=True))
        return {
            CLASS_PRIORS: json.dumps(self.priors.as_dict(class_names)),
            "decisions": json.dumps({"keep": "alarm_rate", "thresholds": thresholds}),
        }

    @property
    def default_thresholds(self) -> Floats:
        """Thresholds (K,) of probabilities at the default priors: with them a row is decided as without priors."""
        scaled = self.thresholds * self.priors.default / self.priors.shares
        return np.asarray(scaled / scaled.sum())
