"""Signs that inputs are not prepared as the model expects, where no remedy is known.

Constants of the graph that lie far from the rows, what the first BatchNormalization gets beside what it got in
training, answers that are the same for all rows, answers that are worse than the class frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlas.contract.profiles import Notice
from fedlas.data.dataset import Array
from fedlas.documents import shortened
from fedlas.importers import GraphClassifier
from fedlas.preconditions.answers import COMMON_CLASS, worse_than_frequencies
from fedlas.preconditions.graph_statistics import Expected, far_columns, standardised_columns
from fedlas.preconditions.remedy import channel_axis, column_name
from fedlas.preconditions.trials import Examined, Trials

#: Rows that are looked at; how many deviations the median channel may be off, and how many times wider or narrower.
_ROWS = 32
_FAR_SHIFT = 6.0
_FAR_RATIO = 8.0
#: Answers whose logits differ by less are the same;
_SAME = 1e-5
#: Sources that say where columns should lie.
_SOURCES = {
    "trees": "the model's own thresholds say",
    "scaler": "the model's own scaler says",
    "batch_norm": "the model's own BatchNormalization says",
    "others": "the other columns, which are standardised, let expect",
}


def batch_statistics(classifier: GraphClassifier, trials: Trials) -> tuple[float, float] | None:
    """Deviations by which the median channel's mean is off and its relative width, at the first running statistics."""
    heard: list[tuple[nn.Module, Tensor]] = []

    def listen(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not heard:
            heard.append((module, inputs[0].detach()))

    modules = [m for m in classifier.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    if not modules:
        return None
    hooks = [module.register_forward_pre_hook(listen) for module in modules]
    try:
        trials.answers([array[:_ROWS] for array in trials.judged])
    finally:
        for hook in hooks:
            hook.remove()
    return _compared(*heard[0]) if heard else None


@torch.no_grad()
def _compared(module: nn.Module, given: Tensor) -> tuple[float, float] | None:
    mean, variance = module.running_mean, module.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    if given.ndim < 2 or given.shape[1] != mean.numel():
        return None
    channels = given.float().transpose(0, 1).flatten(1)
    alive = variance > 1e-3 * variance.median()  # channels that a ReLU has shut vary by nothing
    if channels.shape[1] < 2 or not alive.any():
        return None
    deviation = variance[alive].sqrt()
    shift = ((channels.mean(1)[alive] - mean[alive]).abs() / deviation).median()
    shift_and_spread = float(shift), float((channels.std(1)[alive] / deviation).median())
    return shift_and_spread if np.isfinite(shift_and_spread).all() else None


def signs_of_inputs(examined: Examined, trials: Trials, expected: dict[str, Expected]) -> Iterator[Notice]:
    """Notices of inputs that look wrong without a remedy; the first is nearest to the cause."""
    yield from constants_far(examined, trials, expected)
    shift, ratio = batch_statistics(examined.classifier, trials) or (0.0, 1.0)
    if shift > _FAR_SHIFT or not 1 / _FAR_RATIO < ratio < _FAR_RATIO:
        yield Notice(
            code="input_scale",
            message="the inputs are not what the network was trained on: behind its first layers they lie "
            f"{shift:.3g} deviations from the mean that its BatchNormalization has learned, and vary "
            f"{ratio:.3g} times as much; check scale and normalisation",
            evidence={"shift": shift, "ratio": ratio},
            severity="error",
        )
    yield from same_answers(examined)
    yield from worse_than_frequencies(examined)


def constants_far(examined: Examined, trials: Trials, expected: dict[str, Expected]) -> Iterator[Notice]:
    """A notice for each input with columns, or channels, that lie far from the constants of the graph."""
    for place, name in enumerate(examined.classifier.input_names):
        rows = trials.judged[place]
        if (told := expected.get(name) or standardised_columns(rows)) is not None:
            yield from _far_from_constants(name, rows, told, examined.dataset.columns)


def _far_from_constants(name: str, rows: Array, expected: Expected, columns: list[str] | None) -> Iterator[Notice]:
    axis = channel_axis(rows)
    table = np.moveaxis(rows, axis, -1).reshape(-1, rows.shape[axis]) if axis is not None else rows
    table = table.reshape(-1, expected.size)[:20_000].astype(np.float64)
    if not (far := sorted(far_columns(expected, table), key=lambda item: -item[1])):
        return
    mean = np.nanmean(table, axis=0)
    shown: list[dict[str, Any]] = [
        {
            "column": column_name(columns, i),
            "mean": float(mean[i]),
            "expected": float(expected.centre[i]),
            "expected_spread": float(expected.spread[i]),
        }
        for i, _ in far[:10]
    ]
    most = len(far) >= max(2, 0.5 * expected.known.sum()) or rows.ndim != 2
    words = "; ".join(
        f"{s['column']} has the mean {s['mean']:.4g}, expected is about {s['expected']:.4g}" for s in shown[:3]
    )
    what, name = _SOURCES[expected.source], shortened(name)
    yield Notice(
        code="input_scale" if most else "input_columns",
        message=f"{len(far)} of {int(expected.known.sum())} {'columns' if rows.ndim == 2 else 'channels'} of "
        f"'{name}' lie far "
        f"from what {what}: {words}; check units, scale and order of the columns",
        evidence={"input": name, "columns": shown, "far": len(far)},
        severity="error",
    )


def same_answers(examined: Examined) -> Iterator[Notice]:
    """`constant_answers`, where all rows get one answer, or one class that few of them have."""
    logits, targets = examined.logits, examined.targets
    answered = np.unique(logits.argmax(axis=1))
    if float(np.ptp(logits - logits.mean(axis=1, keepdims=True), axis=0).max()) < _SAME:
        message = f"the answers to all {len(targets)} calibration rows are the same, whatever the inputs"
        yield Notice(
            code="constant_answers", message=message, evidence={"rows": len(targets), "classes": 1}, severity="error"
        )
    elif len(answered) == 1 and np.bincount(targets).max() < COMMON_CLASS * len(targets):
        share = float((targets == answered[0]).mean())
        name = shortened(examined.dataset.class_names[int(answered[0])])
        yield Notice(
            code="constant_answers",
            message=f"all {len(targets)} calibration rows get the class '{name}', which {100 * share:.1f} % of them "
            "have: "
            "check how the inputs are prepared",
            evidence={"rows": len(targets), "classes": 1, "class": name, "share": share},
            severity="error",
        )
