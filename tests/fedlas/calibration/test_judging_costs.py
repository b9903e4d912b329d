"""What follows a race is reckoned with before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlas.calibration import CalibrationOptions
from fedlas.calibration.evaluation import Evaluation, noise_judgements
from fedlas.calibration.judging_costs import PUBLISHING_S, judging_costs
from fedlas.calibration.preparation import prepare
from tests.fedlas.calibration.test_network import given


@pytest.mark.parametrize("rows", [40, 4000, 30_000, 500_000])
def test_judgements_under_wrong_labels_are_counted_as_they_are_made(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that is reckoned with is how often the gate is asked."""
    asked = []
    _, dataset = given(tmp_path)
    monkeypatch.setattr(Evaluation, "targets", np.arange(rows) % 4)
    monkeypatch.setattr(dataset.__class__, "groups_of", lambda *_: None)
    monkeypatch.setattr("fedlas.calibration.evaluation.verdict_alone", lambda *_: asked.append(1) or "unchanged")
    options = CalibrationOptions()
    Evaluation(dataset, {"uploaded": np.full((rows, 4), 0.25)}, options)._label_noise()
    assert len(asked) == noise_judgements(rows, options)


def test_more_test_rows_and_trainings_cost_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the test rows cost several times as much; what trains nothing has no second network to judge."""
    monkeypatch.setattr(
        "fedlas.calibration.judging_costs._seconds", lambda act: act() and 0.02
    )  # whatever else the machine does
    classifier, dataset = given(tmp_path)
    start = prepare(classifier, dataset, CalibrationOptions())
    few = judging_costs(start)
    assert all(seconds > 0 for seconds in vars(few).values())
    assert few.seconds == pytest.approx(sum(vars(few).values()))
    assert few.publishing == PUBLISHING_S
    test = np.flatnonzero(dataset.splits == 3)
    rows = np.concatenate([np.arange(len(dataset)), np.tile(test, 9)])
    larger = replace(
        dataset,
        inputs={name: column[rows] for name, column in dataset.inputs.items()},
        targets=dataset.targets[rows],
        splits=dataset.splits[rows],
    )
    many = judging_costs(replace(start, dataset=larger))
    assert many.reporting > 3 * few.reporting
    assert judging_costs(replace(start, trains=False)).writing < few.writing


def test_what_cannot_be_measured_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these rows allow no judgement a guess takes its place."""

    def refused(**_: object) -> None:
        raise ValueError("probs")

    monkeypatch.setattr("fedlas.calibration.judging_costs.judge", refused)
    costs = judging_costs(prepare(*given(tmp_path), CalibrationOptions()))
    assert costs.judging >= 1.0
    assert costs.reporting >= 8.0
