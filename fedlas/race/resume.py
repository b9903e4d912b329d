"""Resuming a race: the outcome of a training comes from the record where it was finished before, by whomever."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fedlas.classifier import Classifier
from fedlas.race.record import Record
from fedlas.race.results import FedLASDiagnostics, Floats
from fedlas.race.time_budget import BudgetExceeded
from fedlas.training.checkpoints import Checkpoints, State, trained_part

_LOG = logging.getLogger("fedlas.race")


@dataclass(frozen=True)
class TrainingOutcome:
    """The outcome of one training: its logits and features on the rows that score it, or why there are none.

    Attributes:
        network: None of a fold, whose network has served its purpose.
        features: None of a fold, and of a head, whose features are the uploaded network's.
        seconds: of all attempts.
    """

    network: Classifier | None
    logits: Floats | None = None
    features: Floats | None = None
    diagnostics: FedLASDiagnostics | None = None
    status: str = "finished"
    reason: str = ""
    seconds: float = 0.0

    @property
    def ran(self) -> bool:
        """Whether the training has begun at all."""
        return self.status == "finished" or self.seconds > 0


OUT_OF_TIME = TrainingOutcome(None, status="skipped", reason="it ran slower than measured and out of the budget")
DIVERGED = TrainingOutcome(None, status="diverged", reason="its loss stopped being finite")


@dataclass(frozen=True)
class TrainingEntry:
    """The entry of one training in the record of its race, by its name and what it is made with.

    A whole network waits in main memory; a head shares the uploaded body, wherever that is.

    Attributes:
        copied: makes the network before the training.
    """

    record: Record
    name: str
    settings: Mapping[str, Any]
    scope: str
    copied: Callable[[], Classifier]

    def outcome(self) -> TrainingOutcome | None:
        """What the record has, None where that is nothing or nothing that fits."""
        kept = self.record.entry(self.name, self.settings)
        if kept is None:
            return None
        try:
            return _restored(kept, self.copied(), self.scope)
        except Exception as error:  # whatever the entry of another network runs into
            _LOG.warning("%s does not fit and is trained again: %s: %s", self.name, type(error).__name__, error)
            return None

    def keep(self, done: TrainingOutcome) -> TrainingOutcome:
        """Write an outcome down."""
        self.record.keep(self.name, self.settings, _kept(done, self.scope))
        return done

    def trained(
        self,
        train: Callable[[Classifier, Checkpoints], TrainingOutcome],
        on_outcome: Callable[[TrainingOutcome], None],
    ) -> TrainingOutcome:
        """What `train` makes of a copy, which is kept; `on_outcome` hears of it before.

        A training that runs out of the budget or of the device's memory is skipped, with the reason.
        """
        running = self.record.running(self.name, self.settings)
        try:
            done = train(self.copied(), running)
        except BudgetExceeded:
            done = OUT_OF_TIME
        except torch.OutOfMemoryError:
            done = TrainingOutcome(None, status="skipped", reason="it does not fit into the device's memory")
        if done.network is not None and self.scope != "head":
            done.network.to("cpu")
        on_outcome(done)
        return self.keep(replace(done, seconds=running.seconds()))


def _kept(done: TrainingOutcome, scope: str) -> State:
    arrays = {
        "logits": done.logits,
        "features": done.features,
        **(asdict(done.diagnostics) if done.diagnostics else {}),
    }
    return {
        "network": None if done.network is None else trained_part(done.network, scope).state_dict(),
        "arrays": {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None},
        "outcome": {"status": done.status, "reason": done.reason, "seconds": done.seconds},
    }


def _restored(kept: State, network: Classifier, scope: str) -> TrainingOutcome:
    """`network` with the weights that were trained, and what it said. Raises whatever an entry of another one does."""
    arrays = {name: tensor.clone().numpy() for name, tensor in kept["arrays"].items()}
    logits, features = arrays.pop("logits", None), arrays.pop("features", None)
    diagnostics = FedLASDiagnostics(**arrays) if arrays else None
    if (logits is None) == (kept["outcome"]["status"] == "finished"):
        raise ValueError("the logits of a training that ended well are missing")
    if kept["network"] is None:
        return TrainingOutcome(None, logits, features, diagnostics, **kept["outcome"])
    trained_part(network, scope).load_state_dict(kept["network"])
    if scope != "head":
        network.to("cpu")
    return TrainingOutcome(network.eval(), logits, features, diagnostics, **kept["outcome"])
