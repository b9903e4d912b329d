"""The losses against numbers from the authors' own code: values, gradients, statistics, joint training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlas.losses import ACLSLoss, FedLASLoss, FedLASPlusLoss, LabelSmoothingLoss, MbLSLoss

VECTORS = np.load(Path(__file__).parents[2] / "data" / "fedlas_vectors.npz")
GATE = ("fc_in.weight", "fc_in.bias", "fc_out.weight", "fc_out.bias")


def cases(group: str) -> list[str]:
    found = {key.split("/")[1] for key in VECTORS.files if key.startswith(f"{group}/")}
    return sorted(case for case in found if case.startswith("K"))


STEPS = [(group, case) for group in ("fedlas", "fedlasplus") for case in cases(group) if "_B1_" not in case]


def vector(*path: str) -> Tensor:
    return torch.from_numpy(VECTORS["/".join(path)])


def assert_agree(actual: Any, expected: Any, dtype: torch.dtype) -> None:
    rtol, atol = (1e-10, 1e-13) if dtype == torch.float64 else (1e-5, 1e-6)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def make_loss(group: str, case: str, **overrides: Any) -> FedLASLoss | FedLASPlusLoss:
    """The loss of one reference case with the gate weights that the authors' code had."""
    alpha, beta, momentum, margin = VECTORS[f"{group}/{case}/hyper"][:4].tolist()
    options = {"alpha": alpha, "beta": beta, "momentum": momentum, **overrides}
    weights = {name: vector(group, case, name) for name in GATE}
    num_classes = weights["fc_in.weight"].shape[1]
    loss: FedLASLoss | FedLASPlusLoss
    if group == "fedlas":
        loss = FedLASLoss(num_classes, **options)
    else:
        loss = FedLASPlusLoss(num_classes, margin=margin, **options)
    loss.to(weights["fc_in.weight"].dtype).bcg.load_state_dict(weights)
    return loss


@pytest.mark.parametrize(("group", "case"), STEPS)
def test_every_step_agrees_with_the_authors_code(group: str, case: str) -> None:
    """Loss, ε, gate, statistics and all gradients are the authors', over training steps and one in eval mode."""
    loss = make_loss(group, case)
    logits, targets, features = (vector(group, case, name) for name in ("logits", "targets", "features"))
    dtype, steps = logits.dtype, len(logits)
    for t in range(steps):
        loss.train(t < steps - 1)
        loss.zero_grad()
        scores = logits[t].clone().requires_grad_()
        value = loss(scores, targets[t], features[t])
        value.backward()
        assert_agree(value.detach(), vector(group, case, "loss_mean")[t], dtype)
        assert_agree(scores.grad, vector(group, case, "grad_logits")[t], dtype)
        assert_agree(loss.nci.running_mean, vector(group, case, "run_mean")[t], dtype)
        assert_agree(loss.nci.running_std, vector(group, case, "run_std")[t], dtype)
        for name, parameter in loss.bcg.named_parameters():
            assert_agree(parameter.grad, vector(group, case, f"g_{name}")[t], dtype)
        assert_agree(loss.nci.standardise(loss.nci.norms(features[t])), vector(group, case, "z")[t], dtype)
        assert_agree(loss.bcg.soft(scores).detach(), vector(group, case, "gate_soft")[t], dtype)
        assert torch.equal(loss.bcg(scores), vector(group, case, "gate_sign")[t])
        assert_agree(loss.smoothing(scores, features[t]).detach(), vector(group, case, "eps")[t], dtype)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("case", [case for group, case in STEPS if group == "fedlas"])
def test_sum_and_row_losses_agree_with_the_authors_code(case: str, reduction: str) -> None:
    """The other reductions are the authors' too."""
    loss = make_loss("fedlas", case, reduction=reduction)
    logits, targets, features = (vector("fedlas", case, name) for name in ("logits", "targets", "features"))
    for t in range(len(logits)):
        loss.train(t < len(logits) - 1)
        value = loss(logits[t], targets[t], features[t]).detach()
        assert_agree(value, vector("fedlas", case, f"loss_{reduction}")[t], logits.dtype)


def test_a_gate_of_zeros_smooths_every_row_by_alpha() -> None:
    """Where the gate's two outputs tie its sign is 0, ε is α, and the gradients are the authors'."""
    logits, targets, features = (vector("fedlas/gate_tie", name) for name in ("logits", "targets", "features"))
    loss = FedLASLoss(4, alpha=0.05, beta=4, momentum=0.95).double()
    for parameter in loss.bcg.parameters():
        nn.init.zeros_(parameter)
    scores = logits.clone().requires_grad_()
    value = loss(scores, targets, features)
    value.backward()
    assert_agree(value.detach(), vector("fedlas/gate_tie/loss_mean"), torch.float64)
    assert_agree(scores.grad, vector("fedlas/gate_tie/grad_logits"), torch.float64)
    for name, parameter in loss.bcg.named_parameters():
        assert_agree(parameter.grad, vector(f"fedlas/gate_tie/g_{name}"), torch.float64)
    assert loss.smoothing(scores, features).tolist() == pytest.approx([0.05] * 5, abs=0)


def test_dense_logits_go_with_one_feature_row_per_pixel() -> None:
    """Logits (N, K, H, W) take features (N·H·W, D) in the order N, H, W, with the authors' value and gradients."""
    loss = make_loss("fedlas", "logits4d")
    scores = vector("fedlas/logits4d/logits").clone().requires_grad_()
    value = loss(scores, vector("fedlas/logits4d/targets"), vector("fedlas/logits4d/features"))
    value.backward()
    assert_agree(value.detach(), vector("fedlas/logits4d/loss_mean"), torch.float64)
    assert_agree(scores.grad, vector("fedlas/logits4d/grad_logits"), torch.float64)
    for name, parameter in loss.bcg.named_parameters():
        assert_agree(parameter.grad, vector(f"fedlas/logits4d/g_{name}"), torch.float64)


@pytest.mark.parametrize("group", ["fedlas", "fedlasplus"])
def test_joint_training_follows_the_authors_trajectory(group: str) -> None:
    """A network and the gate in one optimiser take the authors' path: six losses, then every weight."""
    path = f"traj/{group}"
    alpha, beta, momentum, margin = VECTORS[f"{path}/hyper"][:4].tolist()
    loss: FedLASLoss | FedLASPlusLoss
    if group == "fedlas":
        loss = FedLASLoss(5, alpha=alpha, beta=beta, momentum=momentum).double()
    else:
        loss = FedLASPlusLoss(5, alpha=alpha, beta=beta, momentum=momentum, margin=margin).double()
    loss.bcg.load_state_dict({name: vector(path, f"{name}_0") for name in GATE})
    first, second = (vector(path, f"{name}_0").clone().requires_grad_() for name in ("W1", "W2"))
    optimiser = torch.optim.SGD([first, second, *loss.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)
    x, targets = vector(path, "x"), vector(path, "targets")
    for t in range(len(x)):
        loss.train(t < len(x) - 1)
        features = torch.relu(x[t] @ first.T)
        value = loss(features @ second.T, targets[t], features)
        assert_agree(value.detach(), vector(path, "loss")[t], torch.float64)
        assert_agree(loss.nci.running_mean, vector(path, "run_mean")[t], torch.float64)
        assert_agree(loss.nci.running_std, vector(path, "run_std")[t], torch.float64)
        if loss.training:
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    assert_agree(first.detach(), vector(path, "W1_T"), torch.float64)
    assert_agree(second.detach(), vector(path, "W2_T"), torch.float64)
    for name, parameter in loss.bcg.named_parameters():
        assert_agree(parameter.detach(), vector(path, f"{name}_T"), torch.float64)


BASELINES: dict[str, nn.Module] = {
    "mbls_m10_a0.1": MbLSLoss(margin=10, alpha=0.1),
    "mbls_m6_a0.1": MbLSLoss(margin=6, alpha=0.1),
    "acls_default": ACLSLoss(),
    "acls_m6": ACLSLoss(margin=6),
    "ls_a0.05": LabelSmoothingLoss(0.05),
    "ls_a0.1": LabelSmoothingLoss(0.1),
}


@pytest.mark.parametrize("name", sorted(BASELINES))
@pytest.mark.parametrize("case", cases("other"))
def test_baselines_agree_with_the_authors_code(case: str, name: str) -> None:
    """Label smoothing, MbLS and ACLS have the authors' values and gradients, at tied maxima too."""
    logits, targets = vector("other", case, "logits"), vector("other", case, "targets")
    scores = logits.clone().requires_grad_()
    value = BASELINES[name](scores, targets, torch.zeros(len(logits), 1))
    value.backward()
    expected = vector("other", case, name, "loss_mean" if name.startswith("ls") else "loss").reshape(-1)[0]
    assert_agree(value.detach(), expected, logits.dtype)
    assert_agree(scores.grad, vector("other", case, name, "grad_logits"), logits.dtype)
