"""The trainer: a copy of the uploaded network on all rows, or on all but a fold of the calibration rows."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from fedlas.classifier import Classifier
from fedlas.losses import FedLASLoss
from fedlas.race.candidates import HEAD_SHARE, Candidate, make_loss
from fedlas.race.context import Integers, RaceContext, TrainingRows, require_numbers
from fedlas.race.record import Record
from fedlas.race.results import FedLASDiagnostics, Floats
from fedlas.race.schedule import BudgetExceeded
from fedlas.training.checkpoints import Checkpoints, State, trained_part
from fedlas.training.fit import edge_rate, fit, head_edge_rate, head_logits, predict_logits
from fedlas.training.loop import EpochResult, TrainConfig, TrainingOptions, steps_per_epoch

_LOG = logging.getLogger("fedlas.race")
_MAX_STEPS = 20_000
#: Features of all training rows are kept up to this size; beyond it no head is trained alone, and the statistics that
#: FedLAS begins with come from so many rows.
_MAX_FEATURE_BYTES = 1 << 30
_SAMPLED_ROWS = 50_000
#: A head has converged long before: on 10,000 rows ten epochs of twelve heads took longer than all features.
_MAX_HEAD_STEPS = 625


@dataclass(frozen=True)
class TrainingOutcome:
    """The outcome of one training: its logits and features on the rows that score it, or why there are none.

    Attributes:
        network: None of a fold, whose network has served its purpose.
        features: None of a fold, and of a head, whose features are the uploaded network's.
        share: of its work that took the seconds; 0 where they tell no speed.
    """

    network: Classifier | None
    logits: Floats | None = None
    features: Floats | None = None
    diagnostics: FedLASDiagnostics | None = None
    status: str = "finished"
    reason: str = ""
    seconds: float = 0.0
    share: float = 1.0


OUT_OF_TIME = TrainingOutcome(
    None, status="skipped", reason="it ran slower than measured and out of the budget", share=0.0
)
DIVERGED = TrainingOutcome(None, status="diverged", reason="its loss stopped being finite", share=0.0)


@dataclass(frozen=True)
class TrainingEntry:
    """The entry of one training in the record of its race, by its name and what it is made with.

    A whole network, which `copied` makes, waits in main memory; a head shares the uploaded body, wherever that is.
    """

    record: Record
    name: str
    settings: Mapping[str, Any]
    scope: str
    copied: Callable[[], Classifier]

    def outcome(self) -> TrainingOutcome | None:
        """Outcome in the record, None where there is none or none that fits."""
        kept = self.record.entry(self.name, self.settings)
        if kept is None:
            return None
        try:
            return _restored(kept, self.copied(), self.scope)
        except Exception as error:  # whatever the entry of another network runs into
            _LOG.warning("%s does not fit and is trained again: %s: %s", self.name, type(error).__name__, error)
            return None

    def keep(self, done: TrainingOutcome) -> TrainingOutcome:
        self.record.keep(self.name, _kept(done, self.scope), self.settings)
        return done

    def trained(
        self, train: Callable[[Classifier, Checkpoints], TrainingOutcome], on_outcome: Callable[[TrainingOutcome], None]
    ) -> TrainingOutcome:
        """Train a copy by `train` and keep the outcome; `on_outcome` hears of it before.

        A training that runs out of the budget is skipped, with the reason.
        """
        running = self.record.running(self.name, self.settings)
        try:
            done = train(self.copied(), running)
        except BudgetExceeded as late:
            done = replace(OUT_OF_TIME, share=late.share)
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
        "outcome": {name: getattr(done, name) for name in ("status", "reason", "seconds", "share")},
    }


def _restored(kept: State, network: Classifier, scope: str) -> TrainingOutcome:
    """`network` with the weights that were trained, and its logits. Raises whatever an entry of another one does."""
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


class Trainer:
    """The trainer of candidates, and what is computed from the training rows once."""

    def __init__(self, context: RaceContext, rows: TrainingRows) -> None:
        self._context, self.rows = context, rows
        self.edges: dict[str, float] = {}

    @property
    def keeps_features(self) -> bool:
        """True where the features of all training rows fit into memory, so that heads can be trained on them."""
        return 4 * len(self.rows) * self._context.classifier.feature_dim <= _MAX_FEATURE_BYTES

    @cached_property
    def _sampled(self) -> Integers:
        """The places (M,) of the rows whose features are computed: all of them, or a sample."""
        if self.keeps_features:
            return np.arange(len(self.rows))
        return np.sort(np.random.default_rng(self._context.seed).permutation(len(self.rows))[:_SAMPLED_ROWS])

    @cached_property
    def features(self) -> Floats:
        """Features (M, D) of the sampled rows under the uploaded network: what a head is trained on."""
        outputs, rows = self._context.outputs, self.rows
        known = np.isin(self._sampled, rows.calibration)
        features = np.empty((len(self._sampled), self._context.classifier.feature_dim), np.float32)
        features[known] = outputs.features[np.searchsorted(rows.calibration, self._sampled[known])]
        if not known.all():
            logits, features[~known] = predict_logits(
                self._context.classifier, rows.inputs, rows=self._sampled[~known], device=self._context.device
            )
            require_numbers(logits, features[~known], split="train")
        return features

    def sized(self, candidate: Candidate, scope: str) -> Candidate:
        if scope == "head" and candidate.scope == "auto" and not candidate.rate_is_fixed:
            # Rates and optimisers of whole networks say nothing of a linear map.
            candidate = replace(candidate, learning_rate=None, edge_share=HEAD_SHARE, optimizer="sgd", usual_epochs=10)
        capped = capped_epochs(candidate.usual_epochs, len(self.rows), candidate.batch_size, scope=scope)
        return replace(candidate, scope=scope, epochs=candidate.epochs or capped)

    def rated(self, candidate: Candidate) -> Candidate:
        if candidate.learning_rate is not None:
            return candidate
        rate = candidate.edge_share * self._edge(candidate.scope, candidate.batch_size)
        return replace(candidate, learning_rate=rate)

    def _edge(self, scope: str, batch_size: int) -> float:
        if scope not in self.edges:
            self.edges[scope] = self._context.record.decided(
                f"edge, {scope}", lambda: self._measured_edge(scope, batch_size)
            )
        return self.edges[scope]

    def _measured_edge(self, scope: str, batch_size: int) -> float:
        if scope == "head":
            return head_edge_rate(self.features)
        return edge_rate(
            self._context.classifier,
            self.rows.inputs,
            batch_size=batch_size,
            seed=self._context.seed,
            device=self._context.device,
        )

    def entry(self, candidate: Candidate, left_out: Integers | None, name: str) -> TrainingEntry:
        """The training of a candidate with epochs and rate, as the record knows it by `name`."""
        body = copy_head if candidate.scope == "head" else copy.deepcopy
        # A network that was trained on other rows must not be gone on with.
        unseen = "" if left_out is None else hashlib.sha256(left_out.tobytes()).hexdigest()
        settings = {"candidate": asdict(candidate), "seed": self._context.seed, "left_out": unseen}
        record, network = self._context.record, self._context.classifier
        return TrainingEntry(record, name, settings, candidate.scope, copied=lambda: body(network))

    def train(
        self,
        candidate: Candidate,
        on_epoch: Callable[[EpochResult], None],
        *,
        left_out: Integers | None = None,
        name: str = "candidate",
        on_share: Callable[[float], None] | None = None,
        on_outcome: Callable[[TrainingOutcome], None] = lambda done: None,
    ) -> TrainingOutcome:
        """The outcome of a candidate with epochs and rate, which the record keeps by `name`.

        Without the calibration rows `left_out` it is scored on these and its network is given up; else its network is
        what may be served, and its outputs on the calibration rows, which it has seen, say nothing of how good it is.
        What `on_epoch` and `on_share` (as `fit` calls them) raise passes through, but for BudgetExceeded.
        """

        def train(network: Classifier, checkpoints: Checkpoints) -> TrainingOutcome:
            return self._trained(candidate, network, left_out, checkpoints, on_epoch, on_share)

        return self.entry(candidate, left_out, name).trained(train, on_outcome)

    def _trained(
        self,
        candidate: Candidate,
        network: Classifier,
        left_out: Integers | None,
        checkpoints: Checkpoints,
        on_epoch: Callable[[EpochResult], None],
        on_share: Callable[[float], None] | None,
    ) -> TrainingOutcome:
        context, rows = self._context, None if left_out is None else self.rows.without(left_out)
        loss = make_loss(candidate, network.num_classes, seed=context.seed)
        fitted = fit(
            network,
            loss,
            self.rows.inputs,
            self.rows.targets,
            train_config(candidate, context.seed),
            TrainingOptions(
                features=self._beginning(candidate.scope, loss, rows),
                weights=self.rows.weights,
                checkpoints=checkpoints,
                on_epoch=on_epoch,
                on_share=on_share,
            ),
            rows=rows,
            device=context.device,
        )
        scored = np.arange(len(context.calibration[1])) if left_out is None else left_out
        if candidate.scope == "head":
            own, features = None, context.outputs.features[scored]
            logits = head_logits(network, features, device=context.device)
        else:
            logits, own = predict_logits(network, context.calibration[0], rows=scored, device=context.device)
            features = own
        if fitted.diverged or not (np.isfinite(logits).all() and np.isfinite(features).all()):
            return DIVERGED
        if left_out is None:
            return TrainingOutcome(network, logits, own)
        return TrainingOutcome(None, logits, None, self._diagnostics(candidate, loss, logits, features, left_out))

    def _beginning(self, scope: str, loss: nn.Module, rows: Integers | None) -> Floats | None:
        """The features that FedLAS begins with, of rows that are trained on; those of all rows for a head."""
        if scope != "head" and not isinstance(loss, FedLASLoss):
            return None
        if scope == "head" or rows is None:
            return self.features
        return self.features[np.isin(self._sampled, rows)]

    @torch.no_grad()
    def _diagnostics(
        self, candidate: Candidate, loss: nn.Module, logits: Floats, features: Floats, left_out: Integers
    ) -> FedLASDiagnostics | None:
        if not isinstance(loss, FedLASLoss):
            return None
        untrained = make_loss(candidate, loss.num_classes, seed=self._context.seed)
        assert isinstance(untrained, FedLASLoss)
        scores, seen = torch.from_numpy(logits), torch.from_numpy(features)
        loss.to("cpu").eval()
        return FedLASDiagnostics(
            feature_norms=loss.nci.norms(seen).double().numpy(),
            epsilon=loss.smoothing(scores, seen).double().numpy(),
            gate=loss.bcg.soft(scores).sign().double().numpy(),
            gate_before=untrained.bcg.soft(scores).sign().double().numpy(),
            correct=logits.argmax(axis=1) == self._context.calibration[1][left_out],
        )


def train_config(candidate: Candidate, seed: int) -> TrainConfig:
    assert candidate.learning_rate is not None
    assert candidate.epochs is not None
    return TrainConfig(
        epochs=candidate.epochs,
        batch_size=candidate.batch_size,
        learning_rate=candidate.learning_rate,
        weight_decay=candidate.weight_decay,
        seed=seed,
        scope="head" if candidate.scope == "head" else "all",
        optimizer=candidate.optimizer,
    )


def capped_epochs(epochs: int, num_rows: int, batch_size: int, *, scope: str = "all") -> int:
    """So many epochs, fewer where rows abound, and for a head.

    >>> capped_epochs(10, 1000, 64), capped_epochs(10, 1_000_000, 64)
    (10, 2)
    """
    max_steps = _MAX_HEAD_STEPS if scope == "head" else _MAX_STEPS
    return max(min(2, epochs), min(epochs, max_steps // steps_per_epoch(num_rows, batch_size)))


def copy_head(classifier: Classifier) -> Classifier:
    """A copy with a head of its own; everything else is shared, so that many heads need the memory of one network."""
    own = {id(parameter) for parameter in classifier.head_parameters()}
    tensors = [*classifier.parameters(), *classifier.buffers()]
    return copy.deepcopy(classifier, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})
