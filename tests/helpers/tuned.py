"""Networks whose weights training might have moved."""

from __future__ import annotations

import copy

import torch

from fedlas.importers import GraphClassifier
from fedlas.race.trainer import copy_head


def shaken(classifier: GraphClassifier, seed: int, *, head_only: bool) -> GraphClassifier:
    """A copy whose weights, or those of its head, training might have moved."""
    other = copy_head(classifier) if head_only else copy.deepcopy(classifier)
    assert isinstance(other, GraphClassifier)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.head_parameters() if head_only else list(other.parameters()):
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return other.eval()
