"""Outputs of finalists on one split, and which of them need the rows at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlas.calibrators import Identity, TemperatureScaling
from fedlas.classifier import Classifier
from fedlas.errors import BadDataset
from fedlas.race.averaging import Ensemble
from fedlas.race.context import SplitOutputs
from fedlas.race.results import CandidateResult, Finalist
from fedlas.race.trainer import copy_head
from fedlas.training.fit import predict_logits
from tests.helpers.small_classifier import SmallClassifier


def finalist(network: Classifier, scope: str) -> Finalist:
    result = CandidateResult("x", "cross_entropy", {}, scope, "finished")
    return Finalist(network, TemperatureScaling(2.0), result, np.zeros((1, 3)), np.zeros((1, 4), np.float32))


def moved_head(base: Classifier, seed: int) -> Classifier:
    network, generator = copy_head(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.head_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return network


def test_heads_say_what_the_whole_network_says_bit_by_bit() -> None:
    """Heads, and averages of heads, are computed from the features: with the same bits as from the rows."""
    base = SmallClassifier(4, 3).eval()
    heads = [moved_head(base, 1), moved_head(base, 2)]
    rows = [np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)]
    outputs = SplitOutputs(base, rows, split="test", device="cpu")
    for network in (base, heads[0], Ensemble([base, *heads], [Identity()] * 3, shares_body=True)):
        found = outputs.of(finalist(network, "none" if network is base else "head"))
        for array, expected in zip(found, predict_logits(network, rows, device="cpu"), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_answers_that_are_no_numbers_name_the_split() -> None:
    """A network that answers NaN is refused before anything is computed from it."""
    base = SmallClassifier(4, 3).eval()
    rows = np.full((10, 4), np.nan, np.float32)
    with pytest.raises(BadDataset, match="split 'guarantee'"):
        SplitOutputs(base, [rows], split="guarantee", device="cpu")
