"""The finding: a remedy that explains the labels, with what it was judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlas.preconditions.remedies import Remedy

#: A remedy must take away this share of the loss on the screened rows to be judged at all.
SCREEN_GAIN = 0.04
#: What leaves no doubt: so little of the loss is left, or so little of what answers can tell was told, at this level.
_MUCH, _LITTLE, _CERTAIN = 0.7, 0.5, 1e-9
#: No network is so overconfident in itself: its inputs are multiplied. Of 60 that were trained for too long the best
#: temperatures are up to 9.5 (the right pairs of benchmarks/README.md, measured once).
_WILD = 12.0


@dataclass(frozen=True)
class Finding:
    """A remedy that explains the labels, with what it was judged on.

    Attributes:
        entropy: of the labels, in nats: the loss of who knows nothing but the class frequencies.
    """

    remedy: Remedy
    rows: int
    entropy: float
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
        told, told_after = self.entropy - self.loss, self.entropy - self.loss_after
        much = self.loss_after < _MUCH * self.loss or told < _LITTLE * told_after
        return (much and self.p_value < _CERTAIN) or self.tames

    @property
    def tames(self) -> bool:
        """Whether it is the confidence that the remedy explains: wild without it, not with it, as right as before."""
        tamed = is_wild(self.temperature) and not is_wild(self.temperature_after)
        return self.remedy.scales and tamed and self.loss_after < (1 + SCREEN_GAIN) * self.loss


def is_wild(temperature: float) -> bool:
    """Whether answers are more confident, or less, than any classifier is of itself."""
    return bool(np.isfinite(temperature)) and not 1 / _WILD < temperature < _WILD
