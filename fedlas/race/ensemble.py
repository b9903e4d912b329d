"""An ensemble: the average of several calibrated networks as one classifier.

Averaging the probabilities of the best trials of a race and fitting one more temperature beat the winner in twelve
of twelve measured runs. Where only heads were trained the members share their body, which is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas.calibrators import Calibrator, softmax
from fedlas.classifier import Classifier

#: A mean probability is never taken for less than this, so that its logarithm stays finite in float32.
TINY = 1e-30


class Ensemble(Classifier):
    """`logits` = log of the mean of the members' calibrated probabilities; `features` are the first member's.

    Its softmax is that mean, so any calibrator may follow. It cannot be trained, and it has a `head` only
    where its members share their body.

    Attributes:
        members: the networks, two or more, of the same classes, features and inputs.
        calibrators: one per member.
        shares_body: the members differ only in their heads.
    """

    def __init__(
        self, members: Sequence[Classifier], calibrators: Sequence[Calibrator], *, shares_body: bool = False
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
        """Return `(log mean probabilities (N, K), features (N, D))`; no gradient passes."""
        with torch.no_grad():
            first, *others = self.networks
            logits, features = first(*inputs)
            outputs = [(logits, features)]
            for member in others:
                outputs.append((member.head(features), features) if self.shares_body else member(*inputs))
        return self._averaged(outputs), features

    def head(self, features: Tensor) -> Tensor:
        """The log mean probabilities (N, K) of members that share their body.

        Raises:
            TypeError: the members have bodies of their own.
        """
        if not self.shares_body:
            raise TypeError("an ensemble of whole networks has no head")
        with torch.no_grad():
            return self._averaged([(member.head(features), features) for member in self.networks])

    def _averaged(self, outputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        rows = [(scores.double().cpu().numpy(), seen.double().cpu().numpy()) for scores, seen in outputs]
        parts = [c(*row) for c, row in zip(self.calibrators, rows, strict=True)]
        return torch.from_numpy(log_mean(parts)).float().to(outputs[0][0].device)

    def head_parameters(self) -> list[nn.Parameter]:
        """None: an ensemble is not trained."""
        return []


def log_mean(calibrated: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """log of the mean of softmax over several arrays of calibrated logits (N, K).

    >>> log_mean([np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])]).round(4).tolist()
    [[-0.3567, -1.204]]
    """
    mean = np.mean([softmax(logits) for logits in calibrated], axis=0)
    logarithms: NDArray[np.float64] = np.log(np.maximum(mean, TINY))
    return logarithms


def cost_factor(members: Sequence[Classifier], inputs: Sequence[Tensor], *, shares_body: bool) -> float:
    """Multiplications of all members on these inputs, as a multiple of the first one's (counted, not timed).

    Only matrix products and convolutions are counted; a network without any counts as one unit.
    """
    with torch.no_grad():
        (_, features), whole = _counted(members[0], *inputs)
        if shares_body:
            others = [_counted(member.head, features)[1] for member in members[1:]]
        else:
            others = [_counted(member, *inputs)[1] for member in members[1:]]
    return 1.0 + sum(others) / whole if whole else float(len(members))


def _counted(function: object, *inputs: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
    from torch.utils.flop_counter import FlopCounterMode  # imports SymPy: a third of a second

    with FlopCounterMode(display=False) as counter:
        result = function(*inputs)  # type: ignore[operator]
    return result, int(counter.get_total_flops())
