"""Class priors: how often each class occurs where a model is used, which its calibration rows may not show.

Where two populations differ in nothing but the shares π of their classes (label shift), their posteriors differ by the
ratio of these shares: p'(k | x) ∝ p(k | x) · π'_k / π_k (Saerens, Latinne and Decaestecker 2002, Neural Computation
14(1), equation 2.4). In log-odds that is one vector (K,), the same for every row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: The constant (K,) float32 of a calibrated file, and the input that is made of it (with a number behind it where the
#: uploaded graph has an input of this name); and the property of its metadata.
CLASS_PRIORS = "class_priors"
#: How far the sum of priors may be from one.
TOLERANCE = 1e-6
#: A rarer class is as good as absent, and in float32 its logarithm soon becomes infinite.
SMALLEST = 1e-9
#: A class without a row counts as this many: its share is small and still something to divide by.
_ABSENT = 0.5
#: Priors that differ by no more than this are the same: they went through JSON.
_SAME = 1e-6
_LISTED = 5


class PriorsDocument(TypedDict):
    """`ClassPriors` as JSON, by class name."""

    shares: dict[str, float]
    default: dict[str, float]


@dataclass(frozen=True)
class ClassPriors:
    """The class shares that a calibrator has learnt, and those that its answers are for.

    Attributes:
        shares: (K,) of the calibration rows.
        default: (K,) the priors of answers to which nothing else is said; `shares` unless others were ordered.
    """

    shares: Floats
    default: Floats

    @classmethod
    def from_dict(cls, document: PriorsDocument, class_names: Sequence[str]) -> ClassPriors:
        """Read what `as_dict` wrote."""
        shares, default = ([document[part][name] for name in class_names] for part in ("shares", "default"))
        return cls(np.array(shares), np.array(default))

    def as_dict(self, class_names: Sequence[str]) -> PriorsDocument:
        """Ready for JSON."""
        return {
            "shares": dict(zip(class_names, self.shares.tolist(), strict=True)),
            "default": dict(zip(class_names, self.default.tolist(), strict=True)),
        }

    @property
    def shifted(self) -> bool:
        """Whether the answers are for other priors than those of the calibration rows."""
        return not same(self.default, self.shares)


def priors_of(given: Mapping[str, float], class_names: Sequence[str]) -> Floats:
    """Priors (K,) by class name, in the order of the classes; they sum to exactly one.

    Raises:
        ValueError: a name is unknown, a class is missing, or as `check_priors`.

    >>> priors_of({"fraud": 0.002, "fine": 0.998}, ["fine", "fraud"]).tolist()
    [0.998, 0.002]
    """
    known = set(class_names)
    unknown, missing = [name for name in given if name not in known], [n for n in class_names if n not in given]
    if unknown:
        raise ValueError(f"class priors name {_listed(unknown)}, but the classes are {_listed(class_names)}")
    if missing:
        raise ValueError(f"class priors need every class; {_listed(missing)} missing")
    check_priors(given)
    priors = np.array([given[name] for name in class_names], dtype=np.float64)
    return np.asarray(priors / priors.sum())


def check_priors(given: Mapping[str, float]) -> None:
    """Raise ValueError unless the priors are each at least `SMALLEST` and together one, within `TOLERANCE`.

    >>> check_priors({"fraud": 0.002, "fine": 0.99})
    Traceback (most recent call last):
    ValueError: class priors must sum to 1; these sum to 0.992
    """
    for name, prior in given.items():
        if not SMALLEST <= prior <= 1:
            raise ValueError(
                f"the prior of class {name[:100]!r} is {prior!r}; needed is a share above 0 (at least {SMALLEST:g})"
            )
    total = float(sum(given.values()))
    if abs(total - 1) > TOLERANCE:
        raise ValueError(f"class priors must sum to 1; these sum to {total:.9g}")


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
    shifted: Floats = np.asarray(logits, np.float64) + np.log(ratio)
    return shifted


def same(priors: Floats, others: Floats) -> bool:
    """Whether the priors (K,) are the same, up to rounding."""
    return bool(np.allclose(priors, others, rtol=_SAME, atol=0))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:100]) for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown
