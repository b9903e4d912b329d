"""Several servers side by side, measured in turn while all others are frozen, and what the rounds say together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.data.common import Array
from benchmarks.serving import load, payloads
from benchmarks.serving.payloads import Request
from benchmarks.serving.processes import Running

Json = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A request to a running server."""

    name: str
    running: Running
    request: Request

    def full(self, seconds: float, *, connections: int = load.CONNECTIONS) -> Json:
        """Requests as fast as it answers them."""
        return load.full(self.running.port, self.request, seconds=seconds, connections=connections)

    def paced(self, moments: Array) -> Json:
        """Requests at these moments."""
        return load.paced(self.running.port, self.request, moments)

    def checked(self, expected: Array) -> Contender:
        """Itself, if a sample of it agrees with ONNX Runtime alone."""
        payloads.check(self.request.read(*load.once(self.running.port, self.request)), expected, who=self.name)
        return self


def in_turn(
    contenders: Sequence[Contender], measure: Callable[[Contender], Json], *, rounds: int, warm_up_s: float = 1.0
) -> dict[str, list[Json]]:
    """Measure everybody once per round, forwards and backwards in turn, so that a slow trend hits all alike."""
    found: dict[str, list[Json]] = {contender.name: [] for contender in contenders}
    freeze(contenders)
    try:
        for number in range(rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                contender.running.thaw()
                if warm_up_s:
                    contender.full(warm_up_s)
                found[contender.name].append(measure(contender))
                contender.running.freeze()
    finally:
        for contender in contenders:
            contender.running.thaw()
    return found


def freeze(contenders: Iterable[Contender]) -> None:
    """All of them stand still."""
    for contender in contenders:
        contender.running.freeze()


def spread(runs: Sequence[Json], key: str) -> Json:
    """Median, lowest and highest of the rounds."""
    values = [float(run[key]) for run in runs]
    return {"median": round_to(float(np.median(values))), "low": round_to(min(values)), "high": round_to(max(values))}


def summed_up(found: dict[str, list[Json]], *keys: str) -> dict[str, Json]:
    """The spread of some keys for everybody."""
    return {name: {key: spread(runs, key) for key in keys} for name, runs in found.items()}


def round_to(value: float, digits: int = 4) -> float:
    """So many significant digits: no clock is better."""
    return float(f"{value:.{digits}g}")
