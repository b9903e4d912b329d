"""An ensemble: a log-linear pool of several calibrated networks as one classifier.

Its logits are the sum of what the calibrators of its networks give, each a `LogPool` with the network's weights. Such a
pool of the uploaded network and its refits beat the uploaded network with a temperature in Brier score in 46 of 66
measured runs and was worse in one. Where only heads were trained the members share their body, which is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedlas.calibrators import Calibrator
from fedlas.classifier import Classifier
from fedlas.race.multiply_adds import count_multiply_adds


class Ensemble(Classifier):
    """`logits` = the sum of the members' weighted log-probabilities; `features` are the first member's.

    Any calibrator may follow. It cannot be trained, and it has a `head` only
    where its members share their body. In a written file `logits` are the first member's, as its features are: what it
    says uncalibrated (`fedlas.export.graph`).

    Attributes:
        members: the networks, two or more, of the same classes, features and inputs; first the uploaded network where
            it is one of them.
        calibrators: one per member, whose outputs are added.
        shares_body: the members differ only in their heads.
    """

    def __init__(
        self,
        members: Sequence[Classifier],
        calibrators: Sequence[Calibrator],
        *,
        shares_body: bool = False,
    ) -> None:
        super().__init__()
        if len(members) < 2 or len(members) != len(calibrators):
            raise ValueError(f"two members or more with a calibrator each, got {len(members)} and {len(calibrators)}")
        self.members = nn.ModuleList(members)
        self.calibrators = tuple(calibrators)
        self.shares_body = shares_body
        self.num_classes, self.feature_dim = members[0].num_classes, members[0].feature_dim
        self.input_names = members[0].input_names

    @property
    def networks(self) -> list[Classifier]:
        """The members, as what they are."""
        return [member for member in self.members if isinstance(member, Classifier)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))`; no gradient passes."""
        with torch.no_grad():
            first, *others = self.networks
            logits, features = first(*inputs)
            outputs = [(logits, features)]
            for member in others:
                outputs.append((member.head(features), features) if self.shares_body else member(*inputs))
        return self._pooled(outputs), features

    def head(self, features: Tensor) -> Tensor:
        """The logits (N, K) of members that share their body.

        Raises:
            TypeError: the members have bodies of their own.
        """
        if not self.shares_body:
            raise TypeError("an ensemble of whole networks has no head")
        with torch.no_grad():
            return self._pooled([(member.head(features), features) for member in self.networks])

    def _pooled(self, outputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        rows = [(scores.double().cpu().numpy(), seen.double().cpu().numpy()) for scores, seen in outputs]
        logits = np.sum([c(*row) for c, row in zip(self.calibrators, rows, strict=True)], axis=0)
        return torch.from_numpy(logits).float().to(outputs[0][0].device)

    def head_parameters(self) -> list[nn.Parameter]:
        """None: an ensemble is not trained."""
        return []


def shared_bodies(members: Sequence[Classifier]) -> list[bool]:
    """Whether each member shares its body with one before it."""
    return [any(_share_body(one, other) for other in members[:number]) for number, one in enumerate(members)]


def cost_factor(
    members: Sequence[Classifier], inputs: Sequence[Tensor], *, shared: Sequence[bool] | None = None
) -> float:
    """Multiply-adds of all members on these inputs, as a multiple of the first one's.

    A body that members share is counted once, as a written file computes it once. Only matrix products, convolutions
    and recurrent layers are counted; a network without any counts as one unit.

    Args:
        shared: `shared_bodies` of the members, where they were moved since.
    """
    (_, features), whole = count_multiply_adds(members[0], *inputs)
    others = 0
    for member, shares in zip(members[1:], (shared or shared_bodies(members))[1:], strict=True):
        others += count_multiply_adds(member.head, features)[1] if shares else count_multiply_adds(member, *inputs)[1]
    return 1.0 + others / whole if whole else float(len(members))


def _share_body(one: Classifier, other: Classifier) -> bool:
    """Whether two networks differ in their heads alone, of which both have one."""
    heads = [{id(parameter) for parameter in network.head_parameters()} for network in (one, other)]
    bodies = [
        {id(part) for part in (*network.parameters(), *network.buffers())} - head
        for network, head in zip((one, other), heads, strict=True)
    ]
    return all(heads) and bodies[0] == bodies[1]
