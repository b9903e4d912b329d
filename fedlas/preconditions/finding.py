"""The finding: a remedy that explains the labels, with what it was judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlas.preconditions.remedies import Remedy

#: A remedy must take away this share of the loss on the screened rows to be judged at all.
SCREEN_GAIN = 0.04
#: What leaves no doubt: so little of the loss is left, so many more are right, at this level.
_MUCH, _FAR_BETTER, _CERTAIN = 0.7, 0.2, 1e-9
#: No classifier is so overconfident in itself: its inputs are multiplied. With the remedy, it is no more so than usual.
_WILD, _USUAL = 12.0, 2.5


@dataclass(frozen=True)
class Finding:
    """A remedy that explains the labels, with what it was judged on."""

    remedy: Remedy
    rows: int
    accuracy: float
    accuracy_after: float
    loss: float
    loss_after: float
    p_value: float
    temperature: float
    temperature_after: float

    @property
    def certain(self) -> bool:
        """Whether the rows leave no doubt."""
        much = self.loss_after < _MUCH * self.loss and self.accuracy_after > self.accuracy + _FAR_BETTER
        return much and self.p_value < _CERTAIN

    @property
    def tames(self) -> bool:
        """Whether it is the confidence that the remedy explains: wild without it, usual with it, as right as before."""
        usual = 1 / _USUAL < self.temperature_after < _USUAL
        as_right = self.loss_after < (1 + SCREEN_GAIN) * self.loss
        return self.remedy.scales and is_wild(self.temperature) and usual and as_right


def is_wild(temperature: float) -> bool:
    """Whether answers are more confident, or less, than any classifier is of itself."""
    return np.isfinite(temperature) and not 1 / _WILD < temperature < _WILD
