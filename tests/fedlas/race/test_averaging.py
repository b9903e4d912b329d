"""The average of the uploaded model and its refits."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.calibrators import LogPool, softmax
from fedlas.race.ensemble import Ensemble
from fedlas.training.fit import predict_logits
from tests.helpers.races import HOT, HOT_PLUS, nll, race
from tests.helpers.small_classifier import noisy_digits


def test_the_average_joins_upload_and_refit() -> None:
    """With a cost factor of 2 the pool of both is named: its logits are the weighted sum of what both say."""
    *_, test = noisy_digits()
    result = race(HOT, max_cost_factor=2.0)
    average = result.finalists["average"]
    network = average.classifier
    assert isinstance(network, Ensemble)
    assert average.cost_factor == 2.0
    assert network.networks[0] is result.post_hoc.classifier
    assert result.trained is not None
    logits = [predict_logits(one, test[0])[0] for one in network.networks]
    weights = average.result.hyperparameters["weights"]
    pools = [pool for pool in network.calibrators if isinstance(pool, LogPool)]
    assert [pool.weights.sum() for pool in pools] == pytest.approx(weights, abs=1e-4)
    parts = [
        w * np.log(softmax(member(one)))
        for pool, one in zip(pools, logits, strict=True)
        for member, w in zip(pool.members, pool.weights, strict=True)
    ]
    np.testing.assert_allclose(average.probs(test[0]), softmax(np.sum(parts, axis=0)), atol=1e-5)
    assert nll(average.probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])
    assert "average" not in race(HOT, max_cost_factor=1.0).finalists


def test_two_refits_are_averaged_where_three_networks_are_paid_for() -> None:
    """With a cost factor of 3 the two best candidates are trained on all rows."""
    result = race(HOT, HOT_PLUS, max_cost_factor=3.0)
    average = result.finalists["average"]
    assert {HOT.name, HOT_PLUS.name} <= set(average.result.hyperparameters["members"])
    assert average.cost_factor == len(average.result.hyperparameters["members"])
