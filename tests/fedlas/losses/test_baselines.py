"""The baselines against closed forms and PyTorch's own functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedlas.losses import ACLSLoss, CrossEntropyLoss, FocalLoss, LabelSmoothingLoss, MbLSLoss

ALL = [CrossEntropyLoss(), LabelSmoothingLoss(0.1), FocalLoss(), MbLSLoss(), ACLSLoss()]
LOGITS = 8 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(12) % 5


def name_of(loss: nn.Module) -> str:
    return type(loss).__name__


def test_cross_entropy_is_pytorchs() -> None:
    """Value and gradient are those of `torch.nn.functional.cross_entropy`."""
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    CrossEntropyLoss()(ours, TARGETS, torch.ones(12, 2)).backward()
    F.cross_entropy(theirs, TARGETS).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_focal_follows_its_formula() -> None:
    """The focal loss is the mean of −(1 − p)³·log p, and cross-entropy for γ = 0."""
    p = LOGITS.softmax(dim=1)[torch.arange(12), TARGETS]
    assert FocalLoss()(LOGITS, TARGETS).item() == pytest.approx((-((1 - p) ** 3) * p.log()).mean().item())
    assert FocalLoss(0)(LOGITS, TARGETS).item() == pytest.approx(F.cross_entropy(LOGITS, TARGETS).item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_focal_has_a_finite_gradient_at_certainty(gamma: float) -> None:
    """Where p[y] rounds to 1 neither value nor gradient is NaN, whatever γ is."""
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    FocalLoss(gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", ALL, ids=name_of)
def test_gradients_are_those_of_the_value(loss: nn.Module) -> None:
    """Finite differences agree with the gradient, except that ACLS lets no gradient through its lower maxima."""
    logits = LOGITS.clone().requires_grad_()
    if isinstance(loss, ACLSLoss):
        loss = ACLSLoss(neg_lambda=0)
    assert torch.autograd.gradcheck(lambda s: loss(s, TARGETS), (logits,))


@pytest.mark.parametrize("loss", ALL, ids=name_of)
def test_dense_logits_are_rows_in_order_n_h_w(loss: nn.Module) -> None:
    """(N, K, H, W) gives the loss of its N·H·W rows."""
    dense = LOGITS.reshape(2, 2, 3, 5).permute(0, 3, 1, 2)
    assert loss(dense, TARGETS.reshape(2, 2, 3)).item() == pytest.approx(loss(LOGITS, TARGETS).item())


@pytest.mark.parametrize("kind", [type(loss) for loss in ALL])
def test_reductions_agree(kind: type[nn.Module]) -> None:
    """Mean and sum are those of the row losses."""
    options: dict[str, Any] = {"alpha": 0.1} if kind is LabelSmoothingLoss else {}
    rows = kind(reduction="none", **options)(LOGITS, TARGETS)
    assert rows.shape == (12,)
    assert kind(reduction="sum", **options)(LOGITS, TARGETS).item() == pytest.approx(rows.sum().item())
    assert kind(**options)(LOGITS, TARGETS).item() == pytest.approx(rows.mean().item())


@pytest.mark.parametrize("loss", ALL, ids=name_of)
def test_half_precision_is_taken_in_float32(loss: nn.Module) -> None:
    """Bfloat16 logits give a float32 loss of the same rounded numbers."""
    value = loss(LOGITS.bfloat16(), TARGETS)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(LOGITS.bfloat16().float(), TARGETS).item())


@pytest.mark.parametrize("loss", ALL, ids=name_of)
def test_every_baseline_checks_its_batch(loss: nn.Module) -> None:
    """NaN logits, lengths that differ, foreign targets and a single class are ValueErrors that name the argument."""
    bad = LOGITS.clone()
    bad[4, 1] = math.nan
    with pytest.raises(ValueError, match=r"logits must be finite, .* row 4"):
        loss(bad, TARGETS)
    with pytest.raises(ValueError, match=r"targets must be \(12,\)"):
        loss(LOGITS, TARGETS[:3])
    with pytest.raises(ValueError, match=r"targets must lie in 0\.\.4, got 9 in row 0"):
        loss(LOGITS, TARGETS + 9)
    with pytest.raises(ValueError, match="logits must have at least 2 classes"):
        loss(LOGITS[:, :1], TARGETS)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LabelSmoothingLoss, (1.5,), r"alpha must lie in \[0, 1\], got 1.5"),
        (FocalLoss, (-1,), "gamma must lie in"),
        (MbLSLoss, (-1,), "margin must lie in"),
        (MbLSLoss, (1, math.inf), "alpha must lie in"),
        (ACLSLoss, (10, 0.1, -1), "pos_lambda must lie in"),
        (ACLSLoss, (10, 0.1, 1, math.nan), "neg_lambda must lie in"),
    ],
)
def test_wrong_parameters_are_named(kind: type[nn.Module], arguments: tuple[float, ...], message: str) -> None:
    """A parameter out of range is a ValueError that names it."""
    with pytest.raises(ValueError, match=message):
        kind(*arguments)


def test_acls_counts_every_tied_maximum() -> None:
    """Two maxima of 12 under margin 10 cost 2·(12 − 10)², the others what lies over the margin below them."""
    logits = torch.tensor([[12.0, 12.0, -1.0]])
    loss = ACLSLoss(margin=10, alpha=1, pos_lambda=1, neg_lambda=1)
    expected = F.cross_entropy(logits, torch.tensor([0])).item() + 2 * 2**2 + 3**2 / 2
    assert loss(logits, torch.tensor([0])).item() == pytest.approx(expected)
