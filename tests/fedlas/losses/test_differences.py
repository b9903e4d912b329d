"""Where the losses differ from the authors' code on purpose, each difference with its own truth."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fedlas.losses import FedLASLoss, FedLASPlusLoss, NormConfidenceIndicator

FAMILY = (FedLASLoss, FedLASPlusLoss)
Loss = FedLASLoss | FedLASPlusLoss


def batch(rows: int = 8, num_classes: int = 4, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(rows, num_classes, generator=generator)
    targets = torch.randint(num_classes, (rows,), generator=generator)
    return logits, targets, torch.rand(rows, width, generator=generator) * 40


@pytest.mark.parametrize("kind", FAMILY)
def test_a_batch_of_one_moves_the_mean_and_keeps_the_deviation(kind: type[Loss]) -> None:
    """One row has no deviation: μ takes it in, σ stays, loss and gradients are finite, and so is the next step."""
    loss = kind(4, momentum=0.5)
    logits, targets, features = batch(rows=1)
    logits.requires_grad_()
    loss(logits, targets, features).backward()
    assert loss.nci.running_mean.item() == pytest.approx(0.5 * features.sum().item() + 0.5 * 20)
    assert loss.nci.running_std.item() == 100.0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert math.isfinite(loss(*batch()).item())


def test_statistics_can_be_initialised_from_a_pass_over_the_data() -> None:
    """`init_statistics` sets μ and σ to the mean and unbiased deviation of the norms; z is then standardised."""
    loss = FedLASLoss(4)
    features = batch(rows=100)[2]
    norms = loss.nci.norms(features)
    assert torch.allclose(norms, features.abs().sum(dim=1))
    loss.init_statistics(norms)
    assert loss.nci.running_mean.item() == pytest.approx(norms.mean().item(), rel=1e-6)
    assert loss.nci.running_std.item() == pytest.approx(norms.std().item(), rel=1e-6)
    z = loss.eval().nci(features)
    assert z.mean().item() == pytest.approx(0, abs=1e-5)
    assert z.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "norms", [torch.ones(1), torch.ones(3, 2), torch.tensor([1.0, math.nan]), torch.tensor([1.0, -1.0])]
)
def test_init_statistics_refuses_what_are_no_norms(norms: Tensor) -> None:
    """Norms are (N,) with N >= 2, finite and not negative."""
    with pytest.raises(ValueError, match="norms must be"):
        FedLASLoss(4).init_statistics(norms)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_reduction_works(kind: type[Loss]) -> None:
    """ "none" gives row losses whose mean and sum are the other two reductions."""
    losses = {name: kind(4, reduction=name) for name in ("none", "mean", "sum")}  # type: ignore[arg-type]
    for other in losses.values():
        other.load_state_dict(losses["none"].state_dict())
    values = {name: loss(*batch()) for name, loss in losses.items()}
    assert values["none"].shape == (8,)
    assert values["mean"].item() == pytest.approx(values["none"].mean().item(), rel=1e-6)
    assert values["sum"].item() == pytest.approx(values["none"].sum().item(), rel=1e-6)


def test_dense_row_losses_have_the_shape_of_the_targets() -> None:
    """For logits (N, K, H, W) "none" gives (N, H, W), each the loss of its own pixel."""
    logits, targets, features = batch(rows=12)
    loss = FedLASLoss(4, reduction="none").eval()
    dense = loss(logits.reshape(2, 2, 3, 4).permute(0, 3, 1, 2), targets.reshape(2, 2, 3), features)
    assert dense.shape == (2, 2, 3)
    assert torch.allclose(dense.reshape(-1), loss(logits, targets, features))


def test_smoothing_changes_nothing_and_lies_between_0_and_twice_alpha() -> None:
    """`smoothing` reads the statistics as they stand, in training mode too."""
    loss = FedLASLoss(4, alpha=0.1)
    before = copy.deepcopy(loss.state_dict())
    logits, _, features = batch()
    epsilon = loss.smoothing(logits, features)
    assert epsilon.shape == (8,)
    assert ((epsilon > 0) & (epsilon < 0.2)).all()
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_batches_train_near_the_float32_value(kind: type[Loss], dtype: torch.dtype) -> None:
    """Half logits and features give the loss of the same rounded numbers in float32, and finite gradients."""
    logits, targets, features = batch()
    loss = kind(4)
    scores = logits.to(dtype).requires_grad_()
    value = copy.deepcopy(loss)(scores, targets, features.to(dtype))
    value.backward()
    expected = loss(scores.detach().float(), targets, features.to(dtype).float())
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("kind", FAMILY)
def test_a_loss_cast_to_half_keeps_wide_statistics(kind: type[Loss]) -> None:
    """`.half()` leaves μ and σ in float32, where a norm of 10⁶ fits, and `.double()` widens them."""
    loss = kind(4).half()
    logits, targets, _ = batch()
    value = loss(logits.half(), targets, (1000 + torch.arange(8.0)[:, None] * torch.ones(1, 1000)).half())
    assert math.isfinite(value.item())
    assert loss.nci.running_mean.dtype == torch.float32
    assert loss.nci.running_mean.item() > 9e5
    assert loss.double().nci.running_mean.dtype == torch.float64


def test_autocast_gives_nearly_the_same_loss() -> None:
    """Under bfloat16 autocast the loss stays finite, float32 and near its float32 value."""
    loss = FedLASLoss(4)
    expected = copy.deepcopy(loss)(*batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*batch())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=0.05)


def test_statistics_ignore_a_batch_that_is_not_finite() -> None:
    """Without a check of values, as on an accelerator, NaN norms leave μ and σ as they were."""
    nci = NormConfidenceIndicator()
    nci.update(torch.tensor([1.0, math.nan]))
    assert (nci.running_mean.item(), nci.running_std.item()) == (20.0, 100.0)


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.51}, r"alpha must lie in \(0, 0.5\], got 0.51"),
        ({"alpha": 0}, r"alpha must lie in \(0, 0.5\], got 0"),
        ({"alpha": math.nan}, r"alpha must lie in \(0, 0.5\], got nan"),
        ({"beta": -1}, r"beta must lie in \[0, inf\), got -1"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\], got 1.5"),
        ({"num_classes": 1}, "num_classes must be an integer of at least 2, got 1"),
        ({"num_classes": 2.0}, "num_classes must be an integer of at least 2, got 2.0"),
        ({"reduction": "avg"}, "reduction must be 'mean', 'sum' or 'none', got 'avg'"),
    ],
)
def test_wrong_parameters_are_named(kind: type[Loss], arguments: dict[str, Any], message: str) -> None:
    """A parameter out of its range is a ValueError with name, range and what came."""
    with pytest.raises(ValueError, match=message):
        kind(**{"num_classes": 4, **arguments})


def test_a_negative_margin_is_named() -> None:
    """The margin is not negative."""
    with pytest.raises(ValueError, match="margin must lie in"):
        FedLASPlusLoss(4, margin=-1)


LOGITS, TARGETS, FEATURES = batch()


def with_value(tensor: Tensor, row: int, value: float) -> Tensor:
    changed = tensor.clone()
    changed[row] = value
    return changed


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOGITS[0], TARGETS, FEATURES), r"logits must be floating \(N, K\) or \(N, K, H, W\), got \(4,\)"),
        ((LOGITS.long(), TARGETS, FEATURES), r"logits must be floating .* torch\.int64"),
        ((LOGITS[:, :3], TARGETS, FEATURES), r"logits must have 4 classes in dimension 1, got \(8, 3\)"),
        ((LOGITS[:0], TARGETS[:0], FEATURES[:0]), "logits must hold at least one row"),
        ((with_value(LOGITS, 3, math.nan), TARGETS, FEATURES), "logits must be finite, .* in row 3 of 8"),
        ((with_value(LOGITS, 2, math.inf), TARGETS, FEATURES), "logits must be finite, .* in row 2 of 8"),
        ((LOGITS, TARGETS[:7], FEATURES), r"targets must be \(8,\) class indices, got \(7,\)"),
        ((LOGITS, TARGETS.double(), FEATURES), "targets must be integer class indices, got torch.float64"),
        ((LOGITS, with_value(TARGETS, 5, 4), FEATURES), r"targets must lie in 0\.\.3, got 4 in row 5 of 8"),
        ((LOGITS, with_value(TARGETS, 6, -1), FEATURES), r"targets must lie in 0\.\.3, got -1 in row 6 of 8"),
        ((LOGITS, TARGETS, None), r"features must be a tensor \(8, D\), got None"),
        ((LOGITS, TARGETS, FEATURES[:7]), r"features must be \(8, D\), .* got \(7, 5\)"),
        ((LOGITS, TARGETS, FEATURES[0]), r"features must be \(8, D\), .* got \(5,\)"),
        ((LOGITS, TARGETS, FEATURES[:, :0]), r"features must be \(8, D\), .* got \(8, 0\)"),
        ((LOGITS, TARGETS, FEATURES.long()), "features must be floating, got torch.int64"),
        ((LOGITS, TARGETS, with_value(FEATURES, 1, math.nan)), "features must be finite, .* in row 1 of 8"),
    ],
)
def test_wrong_batches_are_named_and_leave_no_trace(kind: type[Loss], arguments: tuple[Any, ...], message: str) -> None:
    """A bad batch is a ValueError with argument, expectation and what came, and no statistic has moved."""
    loss = kind(4)
    with pytest.raises(ValueError, match=message):
        loss(*arguments)
    assert (loss.nci.running_mean.item(), loss.nci.running_std.item()) == (20.0, 100.0)
