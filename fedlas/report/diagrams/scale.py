"""Scales of diagrams: figures from `low` to `high` across, with round steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10


@dataclass(frozen=True)
class Scale:
    """Figures from `low` to `high` between `left` and `left + across`; what lies outside is drawn at the end."""

    low: float
    high: float
    left: float
    across: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return self.left + self.across * min(max(share, 0.0), 1.0)

    def steps(self) -> list[float]:
        """Some round figures within, seven at most.

        >>> Scale(0, 0.17, 0, 100).steps()
        [0.0, 0.05, 0.1, 0.15]
        """
        step = round_step((self.high - self.low) / 6)
        return [round(i * step, 12) for i in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def round_step(about: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `about`.

    >>> round_step(0.034), round_step(7)
    (0.05, 10.0)
    """
    if about <= 0:
        return 1.0
    power = floor(log10(about))
    return next(float(f"{digit}e{power}") for digit in (1, 2, 5, 10) if digit * 10**power * (1 + 1e-9) >= about)
