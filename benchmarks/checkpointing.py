"""What it costs a race to be resumable: the time spent writing its journal, as a share of the race.

    OMP_NUM_THREADS=1 python -m benchmarks.checkpointing

(a) eight heads on 10,000 rows of 512 features, (b) a whole `resnet18` on 512 images of 64 x 64, three epochs. Inputs
are noise, since only time is looked at. What the supervisor takes to carry entries on, beside it, is not counted.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import resnet18
from fedlas.classifier import Classifier
from fedlas.race.candidates import Candidate
from fedlas.race.context import TrainingRows
from fedlas.race.journal import FolderJournal
from fedlas.race.race import run_race
from fedlas.training.checkpoints import State
from tests.helpers.small_classifier import SmallClassifier

_RATES = (0.01, 0.02, 0.05, 0.1)


class Timed(FolderJournal):
    """A journal of files that are taken away as soon as they are complete, as a supervisor does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, key="k", known={}, on_saved=self._taken)
        self._place = folder
        self.seconds = 0.0
        self.entries: Counter[str] = Counter()
        self.largest = 0

    def write(self, name: str, entry: State) -> None:
        """Measure."""
        began = time.perf_counter()
        super().write(name, entry)
        self.seconds += time.perf_counter() - began

    def _taken(self, name: str, file: str) -> None:
        self.entries[name.partition("-")[0]] += 1
        self.largest = max(self.largest, (self._place / file).stat().st_size)
        (self._place / file).unlink()


def measure(network: Classifier, rows: Sequence[Any], fitting: int, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Run one race."""
    inputs, targets = rows
    with tempfile.TemporaryDirectory() as folder:
        journal = Timed(Path(folder))
        began = time.perf_counter()
        run_race(
            network,
            training=TrainingRows([inputs], targets, np.arange(fitting, len(targets))),
            calibration=([inputs[fitting:]], targets[fitting:]),
            candidates=candidates,
            budget_seconds=3600,
            journal=journal,
        )
        seconds = time.perf_counter() - began
    return {
        "race_s": round(seconds, 1),
        "writing_s": round(journal.seconds, 3),
        "share": round(journal.seconds / seconds, 4),
        "entries": dict(journal.entries),
        "largest_entry_bytes": journal.largest,
    }


def noise(number: int, *shape: int) -> tuple[Any, Any]:
    """Rows and labels that mean nothing."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(number, *shape)).astype(np.float32), rng.integers(0, 10, number)


def main() -> None:
    """Measure and print JSON."""
    heads = [Candidate("cross_entropy", rate, scope="head") for rate in _RATES]
    heads += [Candidate("fedlas", rate, alpha=0.1, beta=4.0, momentum=0.95, scope="head") for rate in _RATES]
    whole = [Candidate("cross_entropy", 0.01, epochs=3, batch_size=32, scope="all")]
    results = {
        "eight heads": measure(SmallClassifier(512, 10, feature_dim=512), noise(12_000, 512), 10_000, heads),
        "resnet18": measure(resnet18(10), noise(576, 3, 64, 64), 512, whole),
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
