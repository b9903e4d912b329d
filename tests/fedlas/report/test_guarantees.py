"""Guarantees stand beside what the test rows show."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.calibrators import softmax
from fedlas.guarantees import Guarantees
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import is_whole, report


def test_promises_stand_beside_what_was_found() -> None:
    """Threshold and shares are those of the guarantees applied to the test rows; what cannot be promised is said."""
    logits, labels = drawn_logits(3000, 4, seed=5)
    probs = softmax(logits)
    fitted = Guarantees.fit(probs[:2000], labels[:2000], class_names=list("abcd"))
    made = report(probs[2000:], labels[2000:], guarantees=fitted)
    rows = made.as_dict()["guarantees"]["max_error"]
    row = next(row for row in rows if row["level"] == 0.2)
    kept = probs[2000:].max(axis=1).astype(np.float32) >= fitted.threshold_for(0.2)
    wrong = probs[2000:].argmax(axis=1) != labels[2000:]
    assert row["threshold"] == fitted.threshold_for(0.2)
    assert row["answered"] == pytest.approx(kept.mean())
    assert row["error_rate"]["value"] == pytest.approx(wrong[kept].mean())
    sets = fitted.prediction_sets(probs[2000:], 0.9)
    covered = next(row for row in made.as_dict()["guarantees"]["coverage"] if row["level"] == 0.9)
    assert covered["mean_size"] == pytest.approx(sets.sum(axis=1).mean())
    assert covered["covered"]["value"] == pytest.approx(sets[np.arange(1000), labels[2000:]].mean())
    few = Guarantees.fit(probs[:50], labels[:50], class_names=list("abcd"))
    assert "cannot be promised" in is_whole(report(probs[2000:], labels[2000:], guarantees=few))
