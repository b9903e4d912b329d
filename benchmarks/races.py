"""Finalists' answers on hidden rows, and the refit's own logits: a job's one file has only what it serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.special import softmax

from benchmarks.data.common import Array
from fedlas.calibration import network
from fedlas.classifier import Classifier
from fedlas.race.race import RaceRows
from fedlas.race.results import RaceResult
from fedlas.training.fit import predict_logits

REFIT = "trained"


class RecordedRace:
    """The first race of a job, and the targets of its calibration rows."""

    def __init__(self) -> None:
        self.result: RaceResult | None = None
        self.targets: Array | None = None

    def note(self, result: RaceResult, targets: Array) -> None:
        """A second race of the same job, of the network as ONNX Runtime computes it, trains nothing."""
        if self.result is None:
            self.result, self.targets = result, targets


@contextmanager
def recorded_race() -> Iterator[RecordedRace]:
    """The race that a job runs meanwhile; the job itself does not notice."""
    recorded, run = RecordedRace(), network.run_race

    def recording(classifier: Classifier, rows: RaceRows, *given: Any, **named: Any) -> RaceResult:
        result = run(classifier, rows, *given, **named)
        recorded.note(result, rows.calibration[1])
        return result

    with patch.object(network, "run_race", recording):
        yield recorded


def leave_race(recorded: RecordedRace, inputs: list[Array], folder: Path) -> None:
    """Leave `finalists.npz`, probabilities (N, K) of hidden rows by finalist, and `refit.npz` where there is one."""
    result = recorded.result
    assert result is not None
    probs: dict[str, Any] = {name: one.probs(inputs).astype(np.float32) for name, one in result.finalists.items()}
    np.savez_compressed(folder / "finalists.npz", **probs)
    for stale in ("refit", "refit_peers"):
        (folder / f"{stale}.npz").unlink(missing_ok=True)
    refit = result.finalists.get(REFIT)
    if refit is None or refit.out_of_fold_logits is None:
        return
    logits = np.asarray(predict_logits(refit.classifier, inputs)[0], np.float64)
    np.savez_compressed(
        folder / "refit.npz",
        calibration=np.asarray(refit.out_of_fold_logits, np.float64),
        targets=np.asarray(recorded.targets),
        hidden=logits,
        uploaded=softmax(logits, axis=1),
    )
