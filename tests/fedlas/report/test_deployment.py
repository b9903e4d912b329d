"""Decisions, class priors and guarantees in a report: shares and recalls as counted, and the class of the sentence."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.calibrators import softmax
from fedlas.deployment import ClassPriors, Deployment
from fedlas.gate.guards import JudgedRows
from fedlas.guarantees import Guarantees
from fedlas.report.deployment import decision_sentence, decision_table, priors_section, priors_sentence
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import is_whole, report

NAMES = ["fine", "fraud"]
ODDS = ClassPriors(np.array([0.9, 0.1]), np.array([0.998, 0.002]))


def test_answers_are_counted_with_and_without_thresholds() -> None:
    """A model that says 30 % and less never answers the rare class; a threshold of 0.25 does where it says 30 %."""
    targets = np.repeat([0, 1], [90, 10])
    rare = np.where(np.arange(100) >= 85, 0.3, 0.02)  # five rows of the other class, too
    calibrated = np.stack([1 - rare, rare], axis=1)
    uploaded = calibrated[:, ::-1].copy()
    uploaded[:85] = calibrated[:85]
    deployment = Deployment(ODDS, np.array([0.75, 0.25]))
    table = decision_table(deployment, uploaded, calibrated, JudgedRows(targets, None), NAMES, 0.95)
    assert table is not None
    first, second = table.rows
    assert (first.name, first.num_rows, first.threshold, second.name) == ("fraud", 10, 0.25, "fine")
    shares = [part.answered for part in (first.uploaded, first.argmax, first.thresholds)]
    recalls = [part.recall and part.recall.value for part in (first.uploaded, first.argmax, first.thresholds)]
    assert (shares, recalls) == ([0.15, 0.0, 0.15], [1.0, 0.0, 1.0])
    assert table.accuracy == pytest.approx(0.95)
    sentence = decision_sentence(table, 100)
    assert sentence is not None
    assert "“fraud” in 0 % of the test rows (recall 0 %), the uploaded one in 15 % (recall 100 %)" in sentence
    same = decision_table(deployment, calibrated, calibrated, JudgedRows(targets, None), NAMES, 0.95)
    assert decision_sentence(same, 100) is None


def test_other_priors_are_told() -> None:
    """The class whose odds change most is named; where nothing is shifted there is no sentence."""
    sentence = priors_sentence(priors_section(Deployment(ODDS, np.array([0.5, 0.5])), NAMES))
    assert sentence is not None
    assert "“fraud” 0.2 %, which 10 % of the calibration rows are" in sentence
    plain = priors_section(Deployment(ClassPriors(ODDS.shares, ODDS.shares), np.array([0.5, 0.5])), NAMES)
    assert priors_sentence(plain) is priors_sentence(None) is None


def test_promises_stand_beside_what_was_found() -> None:
    """Threshold and shares are those of the guarantees applied to the test rows; impossible promises are named."""
    logits, labels = drawn_logits(3000, 4, seed=5)
    probs = softmax(logits)
    fitted = Guarantees.fit(probs[:2000], labels[:2000], class_names=list("abcd"))
    made = report(probs[2000:], labels[2000:], guarantees=fitted)
    row = next(row for row in made.as_dict()["guarantees"]["max_error"] if row["level"] == 0.2)
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
