"""Post-hoc calibrators: maps from logits to logits that can enter an ONNX graph.

Each is fitted in float64 by penalised maximum likelihood on rows that the network has not seen. Where rows are
perfectly separated or a class has none no maximum exists; a penalty, or Platt's targets (as if one more row had been
wrong, Platt 1999), then keeps the fit finite.
"""

from __future__ import annotations

from fedlas.extras import require

require("arrays", "numpy", "scipy")

from fedlas.calibrators.base import (
    Calibrator,
    Identity,
    LogitsCalibrator,
    MixtureScaling,
    Parameters,
    ShrunkenTemperature,
    TemperatureScaling,
    softmax,
)
from fedlas.calibrators.isotonic import IsotonicScaling
from fedlas.calibrators.linear import MatrixScaling, OneVsRestScaling, VectorScaling
from fedlas.calibrators.pool import LogPool, Pool, Uniform
from fedlas.calibrators.spline import AffineScaling, BetaScaling, QuadraticScaling, SplineScaling

__all__ = [
    "CALIBRATORS",
    "AffineScaling",
    "BetaScaling",
    "Calibrator",
    "Identity",
    "IsotonicScaling",
    "LogPool",
    "MatrixScaling",
    "MixtureScaling",
    "OneVsRestScaling",
    "Pool",
    "QuadraticScaling",
    "ShrunkenTemperature",
    "SplineScaling",
    "TemperatureScaling",
    "Uniform",
    "VectorScaling",
    "from_parameters",
    "softmax",
]

_KINDS: tuple[type[LogitsCalibrator], ...] = (
    Identity,
    TemperatureScaling,
    ShrunkenTemperature,
    MixtureScaling,
    AffineScaling,
    BetaScaling,
    QuadraticScaling,
    SplineScaling,
    VectorScaling,
    MatrixScaling,
    OneVsRestScaling,
    IsotonicScaling,
)

CALIBRATORS: dict[str, type[LogitsCalibrator]] = {kind.name: kind for kind in _KINDS}


def from_parameters(name: str, parameters: Parameters) -> Calibrator:
    """The calibrator called `name` with what `parameters()` once returned.

    Raises:
        ValueError: there is no such calibrator, or its parameters are not exactly these.

    >>> from_parameters("temperature", {"temperature": 2.0})
    TemperatureScaling(temperature=2.0)
    """
    if name not in CALIBRATORS:
        raise ValueError(f"name must be one of {sorted(CALIBRATORS)}, got {name!r}")
    needed = CALIBRATORS[name]().parameters().keys()
    if parameters.keys() != needed:
        raise ValueError(f"parameters of {name} must be {sorted(needed)}, got {sorted(parameters)}")
    return CALIBRATORS[name](**parameters)
