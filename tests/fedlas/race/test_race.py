"""The race as a whole: who is named, what it says, and that it touches nothing of its owner's."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

from fedlas.calibrators import TemperatureScaling
from fedlas.contract.events import Progress
from fedlas.observer import Observer
from fedlas.race.candidates import Candidate
from fedlas.race.results import cross_fitted_logits, score
from fedlas.race.selection import CalibratorSelector
from fedlas.training.fit import predict_logits
from tests.helpers.races import HEAD, HOT, HOT_PLUS, nll, plain_race, race
from tests.helpers.small_classifier import noisy_digits, overconfident_classifier


def test_the_best_candidate_is_named() -> None:
    """The refit is of the candidate with the lowest out-of-fold NLL, and beats uploaded + temperature on new rows."""
    result, (*_, test) = plain_race(), noisy_digits()
    assert [c.status for c in result.candidates] == ["finished"] * 4
    assert "trained" in result.finalists
    scores = {c.name: c.calibration["nll"] for c in result.candidates if c.calibration}
    assert scores[result.finalists["trained"].result.name] == min(scores.values()) < scores["uploaded + temperature"]
    assert nll(result.finalists["trained"].probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])


def test_scores_are_those_of_out_of_fold_logits() -> None:
    """Temperatures of the other folds reproduce the published scores, of the upload and of the refit, exactly."""
    result, (_, (inputs, targets), _) = plain_race(), noisy_digits()
    folds = CalibratorSelector(targets, ("temperature",), False).folds
    assert "trained" in result.finalists
    assert result.finalists["trained"].out_of_fold_logits is not None
    for finalist, logits in (
        (result.post_hoc, predict_logits(result.post_hoc.classifier, inputs)[0]),
        (result.finalists["trained"], result.finalists["trained"].out_of_fold_logits),
    ):
        held_out = cross_fitted_logits(TemperatureScaling, logits.astype(np.float64), targets, folds)
        assert score(held_out, targets) == finalist.result.calibration
        np.testing.assert_array_equal(held_out, finalist.held_out)
    np.testing.assert_array_equal(result.out_of_fold["trained"], result.finalists["trained"].held_out)
    assert set(result.out_of_fold) == {"uploaded", "temperature", "post_hoc", "trained"}
    assert set(result.by_method) == {"fedlas", "fedlas_plus", "cross_entropy"}
    assert sorted(result.compared_rows) == list(range(len(targets)))


@pytest.mark.parametrize("max_cost_factor", [1.0, 2.0])
def test_a_refit_without_a_weight_is_not_trained(max_cost_factor: float) -> None:
    """A training that changes next to nothing adds nothing to the upload's calibrators, whatever may be paid."""
    idle = Candidate("cross_entropy", 1e-9, epochs=1, scope="all")
    result = race(idle, calibrators=None, max_cost_factor=max_cost_factor)
    assert result.candidates[1].status == "finished"
    assert set(result.finalists) == {"same_labels", "post_hoc"}


def test_the_uploaded_network_is_left_alone() -> None:
    """After a race of bodies, heads and averages the uploaded network has the weights and logits it came with."""
    _, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = predict_logits(classifier, calibration[0])[0]
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    result = race(HOT, HEAD, classifier=classifier, max_cost_factor=3.0)
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())
    np.testing.assert_array_equal(before, predict_logits(classifier, calibration[0])[0])
    np.testing.assert_array_equal(before, result.base_logits)
    assert result.post_hoc.classifier is classifier


def test_the_race_repeats_itself() -> None:
    """One seed, one result with averages and feature maps: scores and weights to the last bit; another seed differs."""
    options: dict[str, Any] = {"calibrators": None}
    short = [Candidate("fedlas", None, alpha=0.1, beta=4.0, momentum=0.95, epochs=4, scope="all"), HEAD]
    first, second = (race(*short, seed=5, **options) for _ in range(2))
    scores = [[(c.name, c.status, c.calibration) for c in result.candidates] for result in (first, second)]
    assert scores[0] == scores[1]
    assert first.rates == second.rates
    np.testing.assert_array_equal(first.post_hoc.held_out, second.post_hoc.held_out)
    assert ("trained" not in first.finalists) == ("trained" not in second.finalists)
    named = [race(HOT, seed=seed).finalists["trained"] for seed in (5, 5, 6)]
    states = [one.classifier.state_dict() for one in named]
    assert len(states) == 3
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_destroyed_model_is_dropped() -> None:
    """A learning rate that ruins accuracy loses at the guard, whatever its calibration error says."""
    result = race(Candidate("cross_entropy", 50.0, epochs=1, scope="all"))
    assert result.candidates[1].status in ("dropped", "diverged")
    assert "trained" not in result.finalists


def test_the_guard_is_the_stated_drop() -> None:
    """With an impossible demand on accuracy (a gain of 50 points) every candidate is dropped, with the reason."""
    result = race(HOT, HEAD, max_accuracy_drop=-0.5)
    assert {c.status for c in result.candidates[1:]} == {"dropped"}
    assert all("accuracy" in c.reason for c in result.candidates[1:])
    assert "trained" not in result.finalists


def test_without_time_the_temperature_still_finishes() -> None:
    """A spent budget skips every candidate with a reason; uploaded + temperature is there all the same."""
    result = race(HOT, HOT_PLUS, HEAD, budget_seconds=0)
    assert [c.status for c in result.candidates] == ["finished", "skipped", "skipped", "skipped"]
    assert all("budget" in c.reason for c in result.candidates[1:])
    assert result.temperature.parameters()["temperature"] > 1
    assert "trained" not in result.finalists
    assert [note for note in result.notes if "Nothing was trained" in note] == list(result.notes), "said once"


@pytest.mark.parametrize("number", [1, 5, 14, 46])
def test_what_the_observer_raises_ends_the_race(number: int) -> None:
    """An exception of the observer passes through, before a training, after an epoch, or in the refit."""
    calls = itertools.count(1)

    class Stopping(Observer):
        def on_progress(self, progress: Progress) -> None:
            if next(calls) == number:
                raise KeyboardInterrupt(progress.candidate)

    with pytest.raises(KeyboardInterrupt):
        race(HOT, HOT_PLUS, observer=Stopping())


def test_a_candidate_reads_well_as_json() -> None:
    """A result names method, settings, scores and calibrator, ready for the report."""
    shown = json.loads(json.dumps(plain_race().candidates[1].as_dict()))
    assert (shown["name"], shown["scope"]) == ("fedlas α=0.2 lr=0.2 6 epochs", "all")
    assert shown["calibrator"]["name"] == "temperature"
    assert set(shown["calibration"]) == {"nll", "accuracy", "brier", "ece"}
