"""Fixtures for the tests of the protocol: a model's profile and the outputs of its file."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.guarantees import Guarantees
from tests.helpers.oip_models import profile_of, softmax


@pytest.fixture(scope="session")
def guarantees() -> Guarantees:
    """Guarantees of 400 rows whose probabilities are true."""
    rng = np.random.default_rng(0)
    probs = softmax(rng.normal(size=(400, 3)) * 2)
    targets = (probs.cumsum(1) > rng.random((400, 1))).argmax(1)
    return Guarantees.fit(probs, targets, class_names=list(profile_of().class_names))
