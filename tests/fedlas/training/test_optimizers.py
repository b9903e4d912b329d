"""Optimisers: the referee is `torch.optim`, whose classes take the same steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedlas.training.optimizers import SGD, AdamW, Optimizer, ParameterGroup

_RATES = (0.1, 0.05, 0.2)


def gradients(network: nn.Module, step: int) -> None:
    """Set the gradients of a loss that changes with every step; the last layer has none at the second."""
    network.zero_grad()
    network(torch.randn(8, 5, generator=torch.Generator().manual_seed(step))).square().mean().backward()
    if step == 1:
        for parameter in network[-1].parameters():  # type: ignore[index]
            parameter.grad = None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda groups: SGD(groups, momentum=0.9), lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9)),
        (AdamW, lambda groups: torch.optim.AdamW(groups, lr=1.0)),
    ],
    ids=["sgd", "adamw"],
)
def test_steps_are_those_of_torch_optim(
    ours: Callable[[list[ParameterGroup]], Optimizer],
    theirs: Callable[[list[dict[str, object]]], torch.optim.Optimizer],
) -> None:
    """Bit by bit, with two weight decays, changing rates, and going on from a copied state in the middle."""
    torch.manual_seed(0)
    mine = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    other = copy.deepcopy(mine)
    split = [[[p for p in net.parameters() if p.ndim == ndim] for ndim in (2, 1)] for net in (mine, other)]
    groups = [ParameterGroup(split[0][0], 0.1), ParameterGroup(split[0][1])]
    optimizer = ours(groups)
    referee = theirs([{"params": split[1][0], "weight_decay": 0.1}, {"params": split[1][1], "weight_decay": 0.0}])
    for step in range(12):
        rate = _RATES[step % len(_RATES)]
        for net in (mine, other):
            gradients(net, step)
        optimizer.step(rate)
        for group in referee.param_groups:
            group["lr"] = rate
        referee.step()
        for one, two in zip(mine.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two), step
        if step == 6:
            later = ours(groups)
            later.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            optimizer = later
