"""The training loop on a small network: what it changes, what it leaves alone, and that it repeats itself."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedlas import metrics
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.losses import CrossEntropyLoss, FedLASLoss, FedLASPlusLoss
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import (
    EpochResult,
    LossMeter,
    Optimizer,
    TrainConfig,
    TrainingOptions,
    descend,
    optimizer_of,
)
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_fedlas_mends_an_overconfident_network() -> None:
    """A warm restart with FedLAS lowers the NLL on rows never trained on, before any temperature and after it."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = predict_logits(classifier, calibration[0])[0]
    fit(classifier, FedLASLoss(10, alpha=0.2), *train, TrainConfig(learning_rate=0.2))
    after = predict_logits(classifier, calibration[0])[0]
    targets = calibration[1]
    assert metrics.nll(softmax(after), targets) < 0.8 * metrics.nll(softmax(before), targets)
    both = [softmax(TemperatureScaling().fit(logits, targets)(logits)) for logits in (before, after)]
    assert metrics.nll(both[1], targets) < metrics.nll(both[0], targets)


def test_a_step_is_sgd_by_hand() -> None:
    """One full-batch step equals w − lr · clipped gradient, computed by hand."""
    (inputs, targets), _, _ = noisy_digits()
    classifier = SmallClassifier(64, 10)
    by_hand = copy.deepcopy(classifier)
    nn.functional.cross_entropy(by_hand(torch.from_numpy(inputs[0]))[0], torch.from_numpy(targets)).backward()
    clip = 0.5 * math.sqrt(sum(float(p.grad.square().sum()) for p in by_hand.parameters() if p.grad is not None))
    config = TrainConfig(epochs=1, batch_size=len(targets), learning_rate=0.3, clip_norm=clip)
    fit(classifier, CrossEntropyLoss(), inputs, targets, config)
    for ours, theirs in zip(classifier.parameters(), by_hand.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.detach(), (theirs - 0.3 * 0.5 * theirs.grad).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_repeats_itself(dropout: float) -> None:
    """One seed always gives one set of weights to the last bit, another seed others, dropout or not."""
    (inputs, targets), _, _ = noisy_digits()
    networks = []
    for seed in (3, 3, 4):
        network = SmallClassifier(64, 10, dropout=dropout)
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        fit(network, CrossEntropyLoss(), inputs, targets, TrainConfig(epochs=2, seed=seed))
        networks.append(weights_of(network))
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_head_scope_changes_the_head_only() -> None:
    """A head-only fine-tune leaves every other weight as it was, and lowers the training loss."""
    train, _, _ = noisy_digits()
    classifier = SmallClassifier(64, 10)
    before = weights_of(classifier)
    done = fit(classifier, CrossEntropyLoss(), *train, TrainConfig(epochs=3, scope="head"))
    after = weights_of(classifier)
    assert torch.equal(before["hidden.weight"], after["hidden.weight"])
    assert not torch.equal(before["out.weight"], after["out.weight"])
    assert done.history[-1].loss < done.history[0].loss


def test_cached_features_change_nothing() -> None:
    """Handing over the features that a pass would compute gives the same weights, bit by bit."""
    train, _, _ = noisy_digits()
    networks = []
    for cached in (False, True):
        classifier = overconfident_classifier()
        features = predict_logits(classifier, train[0])[1] if cached else None
        loss = make_gate(FedLASPlusLoss)
        fit(classifier, loss, *train, TrainConfig(epochs=2, scope="head"), TrainingOptions(features=features))
        networks.append(weights_of(classifier) | weights_of(loss))
    assert same(*networks)


def make_gate(kind: type[FedLASPlusLoss]) -> FedLASPlusLoss:
    torch.manual_seed(0)
    return kind(10)


def test_statistics_start_from_the_data() -> None:
    """The running statistics begin at mean and deviation of the L1 norms of all training features."""
    train, _, _ = noisy_digits()
    classifier = overconfident_classifier()
    norms = np.abs(predict_logits(classifier, train[0])[1]).sum(axis=1)
    loss = FedLASLoss(10, momentum=0.0)  # the batches weigh nothing, so the start values stay
    gate = weights_of(loss.bcg)
    fit(classifier, loss, *train, TrainConfig(epochs=1))
    assert float(loss.nci.running_mean) == pytest.approx(norms.mean(), rel=1e-5)
    assert float(loss.nci.running_std) == pytest.approx(norms.std(ddof=1), rel=1e-5)
    assert not same(gate, weights_of(loss.bcg)), "the gate learns in the same optimiser"


def test_two_inputs_keep_their_rows_together() -> None:
    """Features given in two halves train exactly like features given at once."""
    (inputs, targets), _, _ = noisy_digits()
    halves = [inputs[0][:, :32], inputs[0][:, 32:]]
    one, two = SmallClassifier(64, 10), SmallClassifier(64, 10, two_inputs=True)
    for network, arrays in ((one, inputs), (two, halves)):
        fit(network, CrossEntropyLoss(), arrays, targets, TrainConfig(epochs=1))
    assert same(weights_of(one), weights_of(two))


def test_the_last_partial_batch_is_dropped() -> None:
    """An epoch of 70 rows in batches of 64 makes one step; so does one of 20 rows."""
    (inputs, targets), _, _ = noisy_digits()
    for rows, steps in ((70, 1), (20, 1), (130, 2)):
        loss = CountingLoss()
        fit(SmallClassifier(64, 10), loss, [inputs[0][:rows]], targets[:rows], TrainConfig(epochs=3, batch_size=64))
        assert loss.sizes == [min(rows, 64)] * steps * 3


class CountingLoss(CrossEntropyLoss):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, features: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.sizes.append(len(targets))
        return super().forward(logits, targets, features)


def test_an_epoch_callback_can_stop_the_training() -> None:
    """An exception of `on_epoch` passes through after the epoch of the call."""
    train, _, _ = noisy_digits()
    seen: list[EpochResult] = []

    def stop_after_two(epoch: EpochResult) -> None:
        seen.append(epoch)
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    options = TrainingOptions(on_epoch=stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        fit(SmallClassifier(64, 10), CrossEntropyLoss(), *train, TrainConfig(epochs=5), options)
    assert [(epoch.epoch, epoch.epochs) for epoch in seen] == [(1, 5), (2, 5)]


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FedLASLoss(10)], ids=["cross_entropy", "fedlas"])
def test_divergence_is_said(loss: nn.Module) -> None:
    """A learning rate that blows the weights up ends the training early, marked as diverged."""
    (inputs, targets), _, _ = noisy_digits()
    config = TrainConfig(epochs=3, learning_rate=1e30, clip_norm=1e30)
    done = fit(SmallClassifier(64, 10), loss, [1e3 * inputs[0]], targets, config)
    assert done.diverged
    assert len(done.history) < 3


def test_prediction_is_in_evaluation_mode_and_in_order() -> None:
    """Logits and features are those of the network without dropout, row by row, and its mode is put back."""
    (inputs, _), _, _ = noisy_digits()
    classifier = SmallClassifier(64, 10, dropout=0.5).train()
    logits, features = predict_logits(classifier, inputs, batch_size=37)
    assert classifier.training
    with torch.no_grad():
        wanted, seen = classifier.eval()(torch.from_numpy(inputs[0]))
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features, seen.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_is_the_networks(optimizer: Optimizer) -> None:
    """With no gradient, AdamW and SGD shrink a network by rate x decay, and leave the gate of its loss as it is."""
    network, loss = nn.Linear(3, 4), FedLASLoss(4)
    before = [copy.deepcopy(list(module.parameters())) for module in (network, loss)]
    stepper = optimizer_of([network, loss], TrainConfig(weight_decay=0.2, optimizer=optimizer))
    sum((p * 0.0).sum() for m in (network, loss) for p in m.parameters()).backward()  # type: ignore[union-attr]
    descend(stepper, 0.5, 2.0)
    for module, factor, old in zip((network, loss), (0.9, 1.0), before, strict=True):
        for new, was in zip(module.parameters(), old, strict=True):
            torch.testing.assert_close(new, factor * was)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"momentum": 1.0},
        {"scope": "body"},
        {"optimizer": "lion"},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    """A setting out of range is a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_different_lengths_are_refused() -> None:
    """Inputs and targets of different lengths, and no rows at all, are a ValueError."""
    classifier = SmallClassifier(64, 10)
    for rows, labels in ((5, 4), (0, 0)):
        with pytest.raises(ValueError, match="row"):
            inputs, targets = [np.zeros((rows, 64), np.float32)], np.zeros(labels, np.int64)
            fit(classifier, CrossEntropyLoss(), inputs, targets, TrainConfig())


class UncheckedLoss(nn.Module):
    """Cross-entropy that takes any number, as all losses do on an accelerator."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, targets)


def read_seldom(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let meters on the CPU read their numbers as seldom as on an accelerator; the list grows with each reading."""
    readings: list[int] = []
    finite, begin = LossMeter.finite, LossMeter.__init__

    def counted(self: LossMeter) -> bool:
        readings.append(1)
        return finite(self)

    def seldom(self: LossMeter, device: torch.device) -> None:
        begin(self, device)
        self._is_cheap = False

    monkeypatch.setattr(LossMeter, "finite", counted)
    monkeypatch.setattr(LossMeter, "__init__", seldom)
    return readings


@pytest.mark.parametrize("epochs", [1, 3])
def test_divergence_is_found_where_numbers_are_seldom_read(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """A training that diverges is found at the end of its epoch where no step is read."""
    read_seldom(monkeypatch)
    (inputs, targets), _, _ = noisy_digits()
    config = TrainConfig(epochs=epochs, learning_rate=1e30, clip_norm=1e30)
    done = fit(SmallClassifier(64, 10), UncheckedLoss(), [1e3 * inputs[0]], targets, config, device="cpu")
    assert done.diverged
    assert done.history == ()


def test_numbers_are_read_once_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of an accelerator is waited for, only an epoch's end; weights and numbers are equal to the last bit."""
    (inputs, targets), _, _ = noisy_digits()
    config, networks = TrainConfig(epochs=2, batch_size=8), [SmallClassifier(64, 10), SmallClassifier(64, 10)]
    often = fit(networks[0], UncheckedLoss(), inputs, targets, config, device="cpu")
    readings = read_seldom(monkeypatch)
    seldom = fit(networks[1], UncheckedLoss(), inputs, targets, config, device="cpu")
    assert len(readings) == config.epochs
    assert [epoch.loss for epoch in often.history] == [epoch.loss for epoch in seldom.history]
    assert same(weights_of(networks[0]), weights_of(networks[1]))
