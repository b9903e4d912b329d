"""Decisions and class priors in a report: shares and recalls as counted, and the class that is spoken of."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.deployment import ClassPriors, Deployment
from fedlas.gate.non_inferiority import JudgedRows
from fedlas.report.deployment import decision_sentence, decision_table, priors_section, priors_sentence

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
    section = priors_section(Deployment(ODDS, np.array([0.5, 0.5])), NAMES)
    sentence = priors_sentence(section)
    assert sentence is not None
    assert "“fraud” 0.2 %, which 10 % of the calibration rows are" in sentence
    plain = priors_section(Deployment(ClassPriors(ODDS.shares, ODDS.shares), np.array([0.5, 0.5])), NAMES)
    assert priors_sentence(plain) is priors_sentence(None) is None
