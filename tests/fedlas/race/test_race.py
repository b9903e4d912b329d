"""The race as a whole: who is named, what it says, how candidates are trained; it touches nothing of its owner's."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedlas.calibrators import TemperatureScaling
from fedlas.contract.events import Progress
from fedlas.observer import Observer
from fedlas.progress import JobProgress
from fedlas.race import training_runs
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.candidates import Candidate
from fedlas.race.context import ProgressReporter, RaceContext, SplitOutputs
from fedlas.race.record import Record
from fedlas.race.results import cross_fitted_logits, score
from fedlas.race.schedule import BudgetExceeded, TimeBudget
from fedlas.race.trainer import Trainer, copy_head
from fedlas.race.training_runs import PlannedTraining, TrainingWatch
from fedlas.training.fit import head_logits, predict_logits
from tests.helpers.races import HEAD, HOT, HOT_PLUS, nll, plain_race, race, training_rows
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier


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


def test_what_comes_after_the_race_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings have 50 of 100 s, where 30 are gone and 20 kept, and a grace of 7."""
    monkeypatch.setattr(Record, "elapsed", lambda _: 30.0)
    budget = TimeBudget(100.0)
    budget.reserve = 20.0
    assert budget.longest == pytest.approx(57.0)
    assert (budget.fits(56.9), budget.fits(57.1)) == (True, False)


def test_a_training_ends_where_its_speed_says_that_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter that took 10 s needs 30 more; planned for 20 it is twice as slow, and so is what comes after it."""
    monkeypatch.setattr(Record, "elapsed", lambda _: 30.0)
    budget = TimeBudget(100.0)  # 77 s with the grace
    budget.check(0.25, 10.0, planned=20.0, after=23.4)
    with pytest.raises(BudgetExceeded) as late:
        budget.check(0.25, 10.0, planned=20.0, after=23.6)
    assert late.value.share == 0.25
    budget.check(1.0, 1e9, planned=1.0)


def watch(budget: TimeBudget) -> TrainingWatch:
    planned = PlannedTraining(replace(HOT, epochs=2), 0, 1, 0, 3, 10.0)
    return TrainingWatch(ProgressReporter(JobProgress(), Record()), budget, planned)


def test_a_long_epoch_is_ended_before_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that would take hours end within seconds, though no epoch is over; too few say nothing yet."""
    now = [0.0]
    monkeypatch.setattr(training_runs.time, "perf_counter", lambda: now[0])
    watched = watch(TimeBudget(60.0))
    watched.on_share(0.001)
    now[0] = 6.0
    watched.on_share(0.02)
    now[0] = 12.0
    with pytest.raises(BudgetExceeded):
        watched.on_share(0.03)


def test_what_an_earlier_attempt_did_tells_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that a checkpoint holds took no time here: the rest is judged by the steps of this attempt."""
    now = [0.0]
    monkeypatch.setattr(training_runs.time, "perf_counter", lambda: now[0])
    watched = watch(TimeBudget(60.0))
    watched.on_share(0.9)
    now[0] = 6.0
    watched.on_share(0.95)  # 114 s for all of it, of which 6 are left
    now[0] = 100.0
    with pytest.raises(BudgetExceeded):
        watched.on_share(0.951)


def test_heads_share_the_memory_of_their_body() -> None:
    """A head's network has the uploaded body's very memory, a head of its own, and leaves the uploaded head alone."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    outputs, record = SplitOutputs(classifier, calibration[0], split="calibration"), Record()
    budget, selector = TimeBudget(60.0, record), CalibratorSelector(calibration[1], ["temperature"], False)
    reporter = ProgressReporter(JobProgress(), record)
    rows = training_rows(train, calibration)
    trainer = Trainer(RaceContext(classifier, rows, calibration, outputs, selector, budget, record, reporter), rows)
    done = trainer.train(trainer.rated(trainer.sized(HEAD, "head")), lambda _: None)
    assert isinstance(done.network, SmallClassifier)
    for name, value in done.network.named_parameters():
        mine = classifier.get_parameter(name)
        assert (value.data_ptr() == mine.data_ptr()) == name.startswith("hidden")
        assert torch.equal(mine, before[name])
    assert not torch.equal(done.network.out.weight, classifier.out.weight)
    assert done.logits is not None
    np.testing.assert_allclose(done.logits, predict_logits(done.network, calibration[0])[0], atol=1e-5)
    np.testing.assert_array_equal(done.logits, head_logits(done.network, outputs.features))


def test_a_copied_head_is_the_same_head() -> None:
    """Right after the copy both networks give the same logits."""
    _, (inputs, _), _ = noisy_digits()
    classifier = overconfident_classifier()
    before, after = (predict_logits(one, inputs)[0] for one in (classifier, copy_head(classifier)))
    np.testing.assert_array_equal(before, after)
