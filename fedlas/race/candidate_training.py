"""Candidate training: one candidate on a copy of the uploaded network, unless the record has it already."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from fedlas.classifier import Classifier
from fedlas.losses import FedLASLoss
from fedlas.race.candidates import Candidate, make_loss
from fedlas.race.context import RaceContext
from fedlas.race.outputs import SplitOutputs
from fedlas.race.results import FedLASDiagnostics, Floats
from fedlas.race.resume import DIVERGED, TrainingOutcome, train_once
from fedlas.training.checkpoints import Checkpoints
from fedlas.training.fit import fit, head_logits, predict_logits
from fedlas.training.loop import EpochResult, TrainConfig, steps_per_epoch
from fedlas.training.lr_range_test import edge_rate, head_edge_rate

#: Epochs where their number is left to us, and the most steps they may take. More epochs for few rows were tried: 27
#: instead of 10 on 1,000 rows that the network knew by heart only taught it their wrong labels once more.
_EPOCHS, _MAX_STEPS = 10, 20_000
#: Features of all train rows are kept up to this size; beyond it no head is trained alone, and the statistics that
#: FedLAS begins with come from so many rows.
_MOST_FEATURE_BYTES, _SAMPLED_ROWS = 1 << 30, 50_000
#: A head has converged long before: on 10,000 rows ten epochs of twelve heads took longer than all features.
_MAX_HEAD_STEPS = 625


class Trainer:
    """The trainer of candidates on the train rows, and what is computed from these once."""

    def __init__(self, context: RaceContext) -> None:
        assert context.train is not None
        self._context = context
        self.inputs, self.targets = context.train
        #: The learning rate that each scope stands, as far as it was measured.
        self.edges: dict[str, float] = {}

    @property
    def keeps_features(self) -> bool:
        """Whether the features of all train rows fit into memory, so that heads can be trained on them."""
        return keeps_features(len(self.targets), self._context.classifier.feature_dim)

    @cached_property
    def features(self) -> Floats:
        """Features (N, D) of the train rows under the uploaded network: what a head is trained on; else of a sample."""
        inputs = self.inputs
        if not self.keeps_features:
            rows = np.sort(np.random.default_rng(self._context.seed).permutation(len(self.targets))[:_SAMPLED_ROWS])
            inputs = [array[rows] for array in inputs]
        return SplitOutputs(self._context.classifier, inputs, split="train", device=self._context.device).features

    def resolved(self, candidate: Candidate, scope: str) -> Candidate:
        """The candidate with its scope, its number of epochs and its learning rate."""
        rate, epochs = candidate.learning_rate, candidate.epochs
        if rate is None:
            rate = candidate.edge_share * self._edge(scope, candidate.batch_size)
        if epochs is None:
            epochs = default_epochs(len(self.targets), candidate.batch_size, scope=scope)
        return replace(candidate, scope=scope, learning_rate=rate, epochs=epochs)

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
            self.inputs,
            self.targets,
            batch_size=batch_size,
            features=self.features,
            seed=self._context.seed,
            device=self._context.device,
        )

    def train(
        self, candidate: Candidate, on_epoch: Callable[[EpochResult], None], *, name: str = "candidate"
    ) -> TrainingOutcome:
        """The outcome of a resolved candidate, which the record knows by `name`.

        What `on_epoch` raises passes through, but for BudgetExceeded.
        """
        body = copy_head if candidate.scope == "head" else copy.deepcopy
        return train_once(
            self._context.record,
            name,
            {"candidate": asdict(candidate), "seed": self._context.seed},
            scope=candidate.scope,
            copied=lambda: body(self._context.classifier),
            train=lambda network, checkpoints: self._trained(candidate, network, on_epoch, checkpoints),
        )

    def _trained(
        self,
        candidate: Candidate,
        network: Classifier,
        on_epoch: Callable[[EpochResult], None],
        checkpoints: Checkpoints,
    ) -> TrainingOutcome:
        context = self._context
        loss = make_loss(candidate, network.num_classes, seed=context.seed)
        fitted = fit(
            network,
            loss,
            self.inputs,
            self.targets,
            train_config(candidate, context.seed),
            on_epoch=on_epoch,
            device=context.device,
            features=self.features,
            weights=context.weights,
            checkpoints=checkpoints,
        )
        if candidate.scope == "head":
            own, features = None, context.outputs.features
            logits = head_logits(network, features, device=context.device)
        else:
            logits, own = predict_logits(network, context.calibration[0], device=context.device)
            features = own
        if fitted.diverged or not (np.isfinite(logits).all() and np.isfinite(features).all()):
            return DIVERGED
        return TrainingOutcome(network, logits, own, self._diagnostics(candidate, loss, logits, features))

    @torch.no_grad()
    def _diagnostics(
        self, candidate: Candidate, loss: nn.Module, logits: Floats, features: Floats
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
            correct=logits.argmax(axis=1) == self._context.calibration[1],
        )


def keeps_features(num_rows: int, feature_dim: int) -> bool:
    """Whether the features of so many rows are kept in memory."""
    return 4 * num_rows * feature_dim <= _MOST_FEATURE_BYTES


def train_config(candidate: Candidate, seed: int) -> TrainConfig:
    """How a resolved candidate is trained."""
    assert candidate.learning_rate is not None
    assert candidate.epochs is not None
    return TrainConfig(
        epochs=candidate.epochs,
        batch_size=candidate.batch_size,
        learning_rate=candidate.learning_rate,
        seed=seed,
        scope="head" if candidate.scope == "head" else "all",
        optimizer=candidate.optimizer,
    )


def default_epochs(num_rows: int, batch_size: int, *, scope: str = "all") -> int:
    """Ten epochs, fewer where rows abound, and for a head.

    >>> default_epochs(1000, 64), default_epochs(1_000_000, 64)
    (10, 2)
    """
    max_steps = _MAX_HEAD_STEPS if scope == "head" else _MAX_STEPS
    return max(2, min(_EPOCHS, max_steps // steps_per_epoch(num_rows, batch_size)))


def copy_head(classifier: Classifier) -> Classifier:
    """A copy with a head of its own; everything else is shared, so that many heads need the memory of one network."""
    own = {id(parameter) for parameter in classifier.head_parameters()}
    tensors = [*classifier.parameters(), *classifier.buffers()]
    return copy.deepcopy(classifier, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})
