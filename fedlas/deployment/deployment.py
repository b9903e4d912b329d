"""The deployment of one model: the priors of its classes, and the thresholds of its decisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlas.deployment.priors import CLASS_PRIORS, ClassPriors, Floats, class_shares
from fedlas.deployment.thresholds import keep_alarm_rate


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

        Args:
            uploaded: probabilities or logits (N, K) of the uploaded model.
            weights: of the rows (N,).
            priors: (K,) of the answers; the shares of these rows unless they are given.
        """
        shares = class_shares(targets, np.shape(held_out)[1], weights=weights)
        thresholds = keep_alarm_rate(held_out, uploaded, weights=weights)
        return cls(ClassPriors(shares, shares if priors is None else priors), thresholds)

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
        thresholds: Floats = scaled / scaled.sum()
        return thresholds
