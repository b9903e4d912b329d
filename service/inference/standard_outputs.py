"""What a served file computes, completed by what every answer needs; once for a whole batch, not for each request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: By name: logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,), and where asked for
#: features (N, D) and familiarity (N,). `completed` adds index (N,) and uncalibrated_confidence (N,).
Outputs = dict[str, np.ndarray]


def completed(outputs: Outputs) -> Outputs:
    """Add `index`, the most probable class, and `uncalibrated_confidence`, the same graph's without its calibrator.

    Where a row's numbers are not finite `finite` (N,) is added, too; it is missing where all are.
    """
    logits, confidence = outputs["logits"], outputs["confidence"]
    outputs["index"] = outputs["probabilities"].argmax(axis=1)
    # max softmax(s) = 1 / Σ exp(s − max s), in float64.
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        # One sum tells whether any is not finite: infinities and NaN do not vanish in it.
        sound = np.isfinite(shifted.sum() + confidence.sum(dtype=np.float64))
        outputs["uncalibrated_confidence"] = 1.0 / np.exp(shifted, out=shifted).sum(axis=1)
        if not sound:
            outputs["finite"] = np.isfinite(confidence) & np.isfinite(logits).all(axis=1)
    return outputs


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of consecutive rows, as those of one."""
    if any("finite" in part for part in parts):
        for part in parts:
            part.setdefault("finite", np.ones(len(part["confidence"]), dtype=bool))
    common = set(parts[0]).intersection(*parts[1:])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name in common}
