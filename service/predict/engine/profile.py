"""The serving profile: what requests to one model need to know of it, read once from the model's record.

Class priors shift probabilities after the file has run: with p the file's at priors π, those at other priors are
p'_k ∝ p_k · π'_k / π_k. Requests with priors of their own share batches with all others. Run limits are what inspection
has measured: serving stays within a small multiple of its largest batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import orjson

from fedlas.contract.scores import ScoreServing
from fedlas.deployment import ClassPriors, priors_of, same
from fedlas.guarantees import Guarantees
from fedlas.preprocessing import Preprocessing
from service.registry.errors import InvalidRequest

#: A batch is at most so many times as large as the largest measured one: beyond that its cost is unknown.
_BEYOND_MEASURED = 4
#: Outputs that every batch computes.
MODEL_OUTPUTS = ("logits", "probabilities", "confidence")
#: By name: logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,), and where asked for
#: features (N, D) and typicality (N,). `completed` adds index (N,) and uncalibrated_confidence (N,).
Outputs = dict[str, np.ndarray]
#: Logits that are worked on at once in float64: 512 KiB, so that no large block of memory is asked for.
_BLOCK_NUMBERS = 1 << 16
_ALWAYS = ("index", "confidence", "uncalibrated_confidence")
#: A character of a name, escaped or as UTF-8.
_ESCAPED = 6


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The measurements of inspection.

    Attributes:
        sizes_follow_shapes: no value of a row decides how much is computed.
        power: cost grows with the length of a row to this power (1.0 where no dimension of a row is free).
        rows, length: the largest batch that was measured, and the longest free dimension of its rows; infinite rows
            where nothing was measured.
        row_bytes: the most bytes that are alive at once, for each row of that length.
    """

    sizes_follow_shapes: bool = False
    power: float = 1.0
    rows: float = math.inf
    length: int = 1
    row_bytes: int = 0

    @classmethod
    def of(cls, profile: Mapping[str, Any]) -> RunLimits:
        """Read the profile of a record; profiles of earlier versions have no cost."""
        cost = profile.get("cost")
        if cost is None:
            return UNKNOWN
        measured = cost.get("measured") or {}
        return cls(
            sizes_follow_shapes=cost.get("sizes") == "shapes",
            power=max([1.0, *map(float, (cost.get("powers") or {}).values())]),
            rows=measured.get("rows", math.inf),
            length=max(1, measured.get("length", 1)),
            row_bytes=int(cost.get("peak_row_bytes") or 0),
        )

    def weight(self, length: int) -> float:
        return 1.0 if length <= 1 else float(length) ** self.power

    def most_rows(self, length: int, *, most_bytes: int) -> int:
        """Rows of this length in one batch; zero where a single row is longer than anything that was tried."""
        if math.isinf(self.rows):
            return 2**31
        share = self.weight(self.length) / self.weight(length)
        rows = int(_BEYOND_MEASURED * self.rows * share)
        if rows and self.row_bytes:
            rows = max(1, min(rows, int(most_bytes * share / self.row_bytes)))
        return rows

    def longest(self) -> int:
        return int(self.length * (_BEYOND_MEASURED * self.rows) ** (1 / self.power))


#: The limits of a model without measurements: it never runs on the event loop, and has only the usual limits.
UNKNOWN = RunLimits()


def completed(outputs: Outputs) -> Outputs:
    """Add `index`, the most probable class, and `uncalibrated_confidence`, the same graph's without its calibrator.

    Where a row's numbers are not finite `finite` (N,) is added, too; it is missing where all are.
    """
    logits, confidence = outputs["logits"], outputs["confidence"]
    outputs["index"] = outputs["probabilities"].argmax(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        if logits.size <= _BLOCK_NUMBERS:
            uncalibrated, total = _largest_softmax(logits)
        else:
            step = max(1, _BLOCK_NUMBERS // logits.shape[1])
            blocks = [_largest_softmax(logits[start : start + step]) for start in range(0, len(logits), step)]
            uncalibrated, total = np.concatenate([block for block, _ in blocks]), sum(total for _, total in blocks)
        outputs["uncalibrated_confidence"] = uncalibrated
        # One sum tells whether any is not finite: infinities and NaN do not vanish in it.
        if not np.isfinite(total + confidence.sum(dtype=np.float64)):
            outputs["finite"] = np.isfinite(confidence) & np.isfinite(logits).all(axis=1)
    return outputs


def _largest_softmax(logits: np.ndarray) -> tuple[np.ndarray, float]:
    """max softmax(s) = 1 / Σ exp(s − max s) of each row, in float64, and the sum of all s − max s."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    total = shifted.sum()
    return 1.0 / np.exp(shifted, out=shifted).sum(axis=1), total


def selected(outputs: Outputs, names: Sequence[str], rows: slice | None) -> Outputs:
    """The named outputs of some rows (None for all) as views, and those that every prediction needs."""
    kept = (*_ALWAYS, "finite", *names) if "finite" in outputs else (*_ALWAYS, *names)
    if rows is None:
        return {name: outputs[name] for name in kept}
    return {name: outputs[name][rows] for name in kept}


@dataclass(frozen=True, eq=False)
class PriorShift:
    """The step from the priors of a file's answers to others.

    Attributes:
        weights: (K,) float64, factors of the probabilities before they are normalised; None where they stay.
        said: the priors by class name, as JSON, for the answer; None where they are those of the calibration rows, for
            which alone promises are made.
    """

    weights: np.ndarray | None = None
    said: bytes | None = None

    @classmethod
    def to(cls, learnt: ClassPriors, priors: np.ndarray, class_names: Sequence[str]) -> PriorShift:
        said = (
            None if same(priors, learnt.shares) else orjson.dumps(dict(zip(class_names, priors.tolist(), strict=True)))
        )
        return cls(None if same(priors, learnt.default) else priors / learnt.default, said)

    @property
    def keeps_promises(self) -> bool:
        return self.said is None

    def __call__(self, outputs: Outputs) -> Outputs:
        """The outputs of rows, of which probabilities (N, K), index (N,) and confidence (N,) are at the priors."""
        if self.weights is None:
            return outputs
        probs = _reweighted(outputs["probabilities"], self.weights)
        return {**outputs, "probabilities": probs, "index": probs.argmax(axis=1), "confidence": probs.max(axis=1)}


#: The shift of a model at its own priors, which are those of its calibration rows or not known.
NO_SHIFT = PriorShift()


def _reweighted(probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """p_k · w_k / Σ_j p_j · w_j (N, K) in the type of the probabilities, computed in float64."""
    reweighted = np.empty_like(probs)
    step = max(1, _BLOCK_NUMBERS // probs.shape[1])
    for start in range(0, len(probs), step):
        block = probs[start : start + step] * weights
        np.divide(block, block.sum(axis=1, keepdims=True), out=reweighted[start : start + step], casting="same_kind")
    return reweighted


class TensorSpec(NamedTuple):
    """An input of a model.

    Attributes:
        dtype: numpy's name.
        shape: the batch first, as a text, like all dimensions that the model leaves open.
        fill: the number that fills lists which are shorter than others; None where all must be of one length.
        nan: whether a number may be missing: NaN, or null in JSON.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    fill: float | None = None
    nan: bool = False

    @property
    def row(self) -> tuple[int | str, ...]:
        return self.shape[1:]


class LabelSizes(NamedTuple):
    """The lengths of a model's class names, as they are written in an answer, and the width of its features.

    `most` is more than any answer to a row weighs or holds, whatever is asked for.
    """

    classes: int
    longest: int
    total: int
    features: int
    most: int

    @classmethod
    def of(cls, names: Sequence[str], features: int) -> LabelSizes:
        """Measure the names."""
        written = len(orjson.dumps(list(names)))
        longest = max(map(len, names), default=0)
        plain = written == 2 + sum(map(len, names)) + 3 * len(names) - (1 if names else 0)
        longest *= 1 if plain else _ESCAPED
        most = 2000 + 10 * longest + 16 * written + 500 * len(names) + 80 * features
        return cls(len(names), longest, written, features, most)

    def of_best(self, k: int) -> int:
        """Length of k different names, at most."""
        return min(k * (self.longest + 3), self.total)


@dataclass(frozen=True, eq=False)
class ServingProfile:
    """A model as requests see it.

    Attributes:
        columns: the names of the columns of its single input, a matrix; None where they have none.
        binary: whether the task is binary, so that predictions carry the probability of the positive class.
        positive: the column of that class.
        features: width of the features.
        typicality: whether the file computes how typical rows are.
        preprocessing: how image files become rows; None where the model takes none.
        limits: what inspection has measured of its runs.
        priors: the class priors that the file has learnt and answers for; None where they are not known.
        thresholds: (K,) of decisions that keep the uploaded model's alarm rate, for the file's probabilities.
        shift: from the file's priors to those of the name that the model is asked by.
    """

    inputs: tuple[TensorSpec, ...]
    columns: Sequence[str] | None
    class_names: Sequence[str]
    binary: bool
    positive: int
    features: int
    typicality: bool
    preprocessing: Preprocessing | None
    limits: RunLimits
    priors: ClassPriors | None
    thresholds: np.ndarray | None
    shift: PriorShift
    _guarantees: Mapping[str, Any] | None
    _scores: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, profile: Mapping[str, Any]) -> ServingProfile:
        """Read the profile of a record; what an older record lacks is absent."""
        names: Sequence[str] = profile.get("class_names", ())
        positive, preprocessing = profile.get("positive_class"), profile.get("preprocessing")
        learnt, decisions = profile.get("class_priors"), profile.get("decisions")
        reading = profile.get("reading") or {}
        padding, nan = reading.get("padding") or {}, reading.get("missing") == "nan"
        priors = None if learnt is None else ClassPriors.from_dict(learnt, names)
        return cls(
            inputs=tuple(
                TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"]), padding.get(spec["name"]), nan)
                for spec in profile.get("inputs", ())
            ),
            columns=profile.get("columns"),
            class_names=names,
            binary=profile.get("task") == "binary",
            positive=1 if positive is None else names.index(positive),
            features=(profile.get("features") or {}).get("dim") or 0,
            typicality=bool(profile.get("typicality")),
            preprocessing=None if preprocessing is None else Preprocessing.parse(preprocessing),
            limits=RunLimits.of(profile),
            priors=priors,
            thresholds=None if decisions is None else np.array([decisions["thresholds"][name] for name in names]),
            shift=NO_SHIFT if priors is None else PriorShift.to(priors, priors.default, names),
            _guarantees=profile.get("guarantees"),
            _scores=profile.get("scores"),
        )

    def shift_to(self, given: Mapping[str, float]) -> PriorShift:
        """The shift to priors by class name; raises InvalidRequest `no_class_shares` or `invalid_request`."""
        if self.priors is None:
            message = (
                "class priors shift the probabilities of a calibrated model from the class shares of its calibration "
                "rows, and none are recorded of this one (it is uploaded, was left unchanged, or is of an earlier "
                "version)"
            )
            raise InvalidRequest("no_class_shares", message, field="class_priors")
        try:
            return PriorShift.to(self.priors, priors_of(given, self.class_names), self.class_names)
        except ValueError as error:
            raise InvalidRequest("invalid_request", str(error), field="class_priors") from error

    @cached_property
    def guarantees(self) -> Guarantees | None:
        """Guarantees from the guarantee rows of the model's job; None where there were none."""
        return None if self._guarantees is None else Guarantees.from_dict(self._guarantees)

    @cached_property
    def scores(self) -> ScoreServing | None:
        """The promise and band of one score or several signals; None of every other model."""
        return None if self._scores is None else ScoreServing.read(self._scores)

    @cached_property
    def label_sizes(self) -> LabelSizes:
        """Measured once: a hundred thousand names take milliseconds."""
        return LabelSizes.of(self.class_names, self.features)

    @cached_property
    def name_array(self) -> np.ndarray:
        return np.array(self.class_names, dtype=object)
