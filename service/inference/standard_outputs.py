"""The standard outputs of a served file, and the columns that every prediction needs, computed once for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: What every batch computes.
MODEL_OUTPUTS = ("logits", "probabilities", "confidence")
#: By name: logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,), and where asked for
#: features (N, D) and familiarity (N,). `completed` adds index (N,) and uncalibrated_confidence (N,).
Outputs = dict[str, np.ndarray]

#: Logits that are worked on at once in float64: 512 KiB, so that no large block of memory is asked for.
_BLOCK_NUMBERS = 1 << 16
_ALWAYS = ("index", "confidence", "uncalibrated_confidence")


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
