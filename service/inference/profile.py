"""The serving profile: what requests to one model need to know of it, read once from the model's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import orjson

from fedlas.deployment import ClassPriors, priors_of
from fedlas.guarantees import Guarantees, GuaranteesDocument
from fedlas.preprocessing import Preprocessing
from service.inference.class_priors import NO_SHIFT, PriorShift
from service.inference.run_limits import RunLimits
from service.registry.errors import InvalidRequest

#: A character of a name, escaped or as UTF-8.
_ESCAPED = 6


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
        """The shape of one row."""
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
        """Of k different names, at most."""
        return min(k * (self.longest + 3), self.total)


@dataclass(frozen=True, eq=False)
class ServingProfile:
    """A model as requests see it.

    Attributes:
        columns: the names of the columns of its single input, a matrix; None where they have none.
        binary: whether the task is binary, so that predictions carry the probability of the positive class.
        positive: the column of that class.
        features: width of the features.
        familiarity: whether the file computes how familiar rows are.
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
    familiarity: bool
    preprocessing: Preprocessing | None
    limits: RunLimits
    priors: ClassPriors | None
    thresholds: np.ndarray | None
    shift: PriorShift
    _guarantees: GuaranteesDocument | None

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
            familiarity=bool(profile.get("familiarity")),
            preprocessing=None if preprocessing is None else Preprocessing.parse(preprocessing),
            limits=RunLimits.of(profile),
            priors=priors,
            thresholds=None if decisions is None else np.array([decisions["thresholds"][name] for name in names]),
            shift=NO_SHIFT if priors is None else PriorShift.to(priors, priors.default, names),
            _guarantees=profile.get("guarantees"),
        )

    def shift_to(self, given: Mapping[str, float]) -> PriorShift:
        """The shift to priors by class name.

        Raises:
            InvalidRequest: `no_class_shares` where it is not known which priors the model has learnt, `invalid_request`
                for unknown and missing classes and for numbers that are no priors.
        """
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
        """What the guarantee rows of the model's job allow to promise; None where there were none."""
        return None if self._guarantees is None else Guarantees.from_dict(self._guarantees)

    @cached_property
    def label_sizes(self) -> LabelSizes:
        """Measured once: a hundred thousand names take milliseconds."""
        return LabelSizes.of(self.class_names, self.features)

    @cached_property
    def name_array(self) -> np.ndarray:
        """The class names (K,) as objects."""
        names = np.empty(len(self.class_names), dtype=object)
        names[:] = self.class_names
        return names
