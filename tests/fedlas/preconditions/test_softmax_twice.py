"""Scores that are probabilities already, before a softmax, are found; logits are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from fedlas.preconditions.class_rows import softmax_twice
from tests.helpers.matches import examined, gaussian_answers


@pytest.mark.parametrize("classes", [2, 10])
def test_probabilities_in_place_of_logits_end_a_job(classes: int) -> None:
    """The notice says how sure an answer can be at most: e / (e + K - 1)."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(0), classes, 300)
    assert softmax_twice(examined(logits, targets)) == []
    assert softmax_twice(examined(0.1 * logits, targets)) == []
    (notice,) = softmax_twice(examined(softmax(logits, axis=1), targets))
    assert (notice.code, notice.severity) == ("softmax_twice", "error")
    assert notice.evidence["most_confidence"] == {2: 0.731059, 10: 0.231969}[classes]
