"""The race as a whole: who is named, what it costs, what it says, and that it touches nothing of its owner's."""

from __future__ import annotations

import itertools
import json
import pkgutil
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import fedlas.race
from fedlas import metrics
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.race.candidate_training import Trainer, copy_head
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import ProgressReporter
from fedlas.race.race import run_race
from fedlas.race.record import Record
from fedlas.race.results import RaceProgress, RaceResult
from fedlas.race.scoring import cross_fitted_logits, row_nll, score
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget
from fedlas.training.fit import head_logits, predict_logits
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier

HOT = Candidate("fedlas", 0.2, alpha=0.2, beta=4.0, momentum=0.95, scope="all")
HOT_PLUS = Candidate("fedlas_plus", 0.2, alpha=0.1, beta=0.5, momentum=0.95, margin=6.0, scope="all")
HEAD = Candidate("cross_entropy", 0.01, scope="head")


def run(*candidates: Candidate, budget_seconds: float = 600, **options: Any) -> RaceResult:
    """A race on the digits with nothing but temperatures, unless `calibrators` says otherwise."""
    train, calibration, _ = noisy_digits()
    settings: dict[str, Any] = {"train": train, "calibration": calibration, "calibrators": ("temperature",), **options}
    return run_race(overconfident_classifier(), candidates=candidates, budget_seconds=budget_seconds, **settings)


@cache
def plain_race() -> RaceResult:
    return run(HOT, HOT_PLUS, HEAD, combine=False)


def nll(probs: np.ndarray, targets: np.ndarray) -> float:
    return float(metrics.nll(probs, targets))


def test_the_best_candidate_is_named() -> None:
    """The trained finalist has the lowest cross-fitted NLL, and beats uploaded + temperature on new rows too."""
    result, (*_, test) = plain_race(), noisy_digits()
    assert [c.status for c in result.candidates] == ["finished"] * 4
    assert result.trained is not None
    scores = {c.name: c.calibration["nll"] for c in result.candidates if c.calibration}
    assert scores[result.trained.result.name] == min(scores.values()) < scores["uploaded + temperature"]
    assert nll(result.trained.probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])


def test_scores_are_those_of_the_finalists_networks() -> None:
    """Each finalist's network reproduces its published scores with temperatures of the other folds, exactly."""
    result, (_, (inputs, targets), _) = plain_race(), noisy_digits()
    folds = CalibratorSelector(targets, ("temperature",), False).folds
    assert result.trained is not None
    for finalist in (result.post_hoc, result.trained):
        logits = predict_logits(finalist.classifier, inputs)[0].astype(np.float64)
        held_out = cross_fitted_logits(TemperatureScaling, logits, targets, folds)
        assert score(held_out, targets) == finalist.result.calibration
        np.testing.assert_array_equal(held_out, finalist.held_out)
        whole = softmax(TemperatureScaling().fit(logits, targets)(logits))
        np.testing.assert_array_equal(finalist.probs(inputs), whole)


def test_a_trained_finalist_must_be_clearly_better() -> None:
    """Named where it leads by more than a standard error; a training that changes next to nothing is none."""
    result, (_, (_, targets), _) = plain_race(), noisy_digits()
    assert result.trained is not None
    gain = row_nll(result.post_hoc.held_out, targets) - row_nll(result.trained.held_out, targets)
    assert gain.mean() > gain.std() / np.sqrt(len(gain))
    idle = run(Candidate("cross_entropy", 1e-9, epochs=1, scope="all"), combine=False)
    assert idle.candidates[1].status == "finished"
    assert idle.trained is None


def test_the_uploaded_network_is_left_alone() -> None:
    """After a race of bodies, heads and averages the uploaded network has the weights and logits it came with."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = predict_logits(classifier, calibration[0])[0]
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    result = run_race(
        classifier,
        train=train,
        calibration=calibration,
        candidates=[HOT, HOT_PLUS, HEAD],
        budget_seconds=600,
        calibrators=("temperature",),
    )
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())
    np.testing.assert_array_equal(before, predict_logits(classifier, calibration[0])[0])
    np.testing.assert_array_equal(before, result.base_logits)
    assert result.post_hoc.classifier is classifier


def test_the_race_repeats_itself() -> None:
    """One seed, one result with averages and feature maps: scores and weights to the last bit; another seed differs."""
    options: dict[str, Any] = {"calibrators": None}
    short = [Candidate("fedlas", None, alpha=0.1, beta=4.0, momentum=0.95, epochs=4, scope="all"), HEAD]
    first, second = (run(*short, seed=5, **options) for _ in range(2))
    scores = [[(c.name, c.status, c.calibration) for c in result.candidates] for result in (first, second)]
    assert scores[0] == scores[1]
    assert first.rates == second.rates
    np.testing.assert_array_equal(first.post_hoc.held_out, second.post_hoc.held_out)
    assert (first.trained is None) == (second.trained is None)
    named = [run(HOT, seed=seed).trained for seed in (5, 5, 6)]
    states = [one.classifier.state_dict() for one in named if one is not None]
    assert len(states) == 3
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_destroyed_model_is_dropped() -> None:
    """A learning rate that ruins accuracy loses at the guard, whatever its calibration error says."""
    result = run(Candidate("cross_entropy", 50.0, epochs=1, scope="all"))
    assert result.candidates[1].status in ("dropped", "diverged")
    assert result.trained is None


def test_the_guard_is_the_stated_drop() -> None:
    """With an impossible demand on accuracy (a gain of 50 points) every candidate is dropped, with the reason."""
    result = run(HOT, HEAD, max_accuracy_drop=-0.5)
    assert {c.status for c in result.candidates[1:]} == {"dropped"}
    assert all("accuracy" in c.reason for c in result.candidates[1:])
    assert result.trained is None


def test_without_time_the_temperature_still_finishes() -> None:
    """A spent budget skips every candidate with a reason; uploaded + temperature is there all the same."""
    result = run(HOT, HOT_PLUS, HEAD, budget_seconds=0)
    assert [c.status for c in result.candidates] == ["finished", "skipped", "skipped", "skipped"]
    assert all("budget" in c.reason for c in result.candidates[1:])
    assert result.temperature.parameters()["temperature"] > 1
    assert result.trained is None


@pytest.mark.parametrize("rows", ["none", "empty"])
def test_no_train_rows_train_nothing(rows: str) -> None:
    """Without train rows the candidates are skipped with that reason, and the temperature is fitted."""
    (inputs, targets), *_ = noisy_digits()
    result = run(HOT, HEAD, train=None if rows == "none" else ([inputs[0][:0]], targets[:0]))
    assert [c.reason for c in result.candidates[1:]] == ["there are no train rows"] * 2
    assert result.trained is None
    assert result.post_hoc.result.status == "finished"


def test_a_network_without_weights_trains_nothing() -> None:
    """Frozen weights are said to be the reason."""
    train, calibration, _ = noisy_digits()
    frozen = overconfident_classifier().requires_grad_(False)
    result = run_race(frozen, train=train, calibration=calibration, candidates=[HOT], budget_seconds=60)
    assert "no weights" in result.candidates[1].reason


class SlowClassifier(SmallClassifier):
    """Its body wastes time in training mode, as a large network would."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training:
            time.sleep(0.2)
        return super().forward(*inputs)


def test_where_the_network_does_not_fit_the_head_is_trained() -> None:
    """A slow body leaves head-only candidates; one that insists on the whole network is skipped, and a note says so."""
    train, calibration, _ = noisy_digits()
    slow = SlowClassifier(64, 10)
    slow.load_state_dict(overconfident_classifier().state_dict())
    candidates = [Candidate("cross_entropy", 0.01, scope=scope) for scope in ("auto", "all")]
    result = run_race(
        slow,
        train=train,
        calibration=calibration,
        candidates=candidates,
        budget_seconds=12.0,
        combine=False,
        calibrators=("temperature",),
    )
    assert [(c.scope, c.status) for c in result.candidates[1:]] == [("head", "finished"), ("all", "skipped")]
    assert any("head" in note for note in result.notes)


def test_halving_keeps_the_best_of_a_short_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only a quarter fits, all run short, the best third runs in full, and the others say so."""
    monkeypatch.setattr("fedlas.race.successive_halving.SuccessiveHalving.epoch_seconds", lambda *args, **_: 10.0)
    line = [Candidate("cross_entropy", rate, scope="all", epochs=8) for rate in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)]
    # An epoch "costs" 10 s: in full 480 s, short rounds of two epochs 120 s and two in full 160 s.
    result = run(*line, budget_seconds=300, combine=False)
    ended = [(c.status, c.hyperparameters["epochs"]) for c in result.candidates[1:]]
    assert ended.count(("finished", 8)) == 2
    assert all(epochs == 2 for status, epochs in ended if status == "halved")
    short = [c for c in result.candidates[1:] if c.status == "halved"]
    assert short
    assert all("after 2 epochs" in c.reason for c in short)


def test_progress_is_told_in_order() -> None:
    """Epochs count up within each candidate, heads come first, the fraction never falls and ends at one."""
    seen: list[RaceProgress] = []
    run(HOT, HEAD, HOT_PLUS, combine=False, on_progress=seen.append)
    told = [(key, [p.epoch for p in steps]) for key, steps in itertools.groupby(seen, key=lambda p: p.candidate)]
    assert told == [(2, list(range(11))), (1, list(range(11))), (3, list(range(11)))]
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {p.candidates for p in seen} == {3}
    assert all(p.eta_seconds is not None and 0 <= p.eta_seconds <= 600 for p in seen)


def test_the_student_is_the_last_in_line() -> None:
    """Where one network is taught an average its epochs are reported after all candidates."""
    seen: list[RaceProgress] = []
    result = run(HOT, HOT_PLUS, on_progress=seen.append)
    assert result.candidates[-1].method == "distilled"
    assert (seen[-1].candidate, seen[-1].candidates, seen[-1].fraction) == (3, 3, 1.0)
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)


@pytest.mark.parametrize("number", [1, 5, 14, 25])
def test_what_the_callback_raises_ends_the_race(number: int) -> None:
    """Before a candidate, after an epoch, or in the student's distillation: the exception passes through."""
    calls = itertools.count(1)

    def stop(progress: RaceProgress) -> None:
        if next(calls) == number:
            raise KeyboardInterrupt(progress.name)

    with pytest.raises(KeyboardInterrupt):
        run(HOT, HOT_PLUS, on_progress=stop)


def test_a_student_that_is_too_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of the budget while an average is taught loses the student, not the race; a note says so."""
    from fedlas.race import ensembling, time_budget

    def late(self: Any, epoch: Any) -> None:
        raise time_budget.BudgetExceeded

    monkeypatch.setattr(ensembling.EnsembleBuilder, "_tell", late)
    result = run(HOT, HOT_PLUS)
    assert result.trained is not None
    assert result.trained.result.method in ("fedlas", "fedlas_plus")
    assert any("given up" in note for note in result.notes)


def test_heads_share_the_memory_of_their_body() -> None:
    """A head's network has the uploaded body's very memory, a head of its own, and leaves the uploaded head alone."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    outputs, record = SplitOutputs(classifier, calibration[0], split="calibration"), Record()
    budget, selector = TimeBudget(60.0, record), CalibratorSelector(calibration[1], ["temperature"], False)
    reporter = ProgressReporter(budget, record, None, None)
    trainer = Trainer(RaceContext(classifier, train, calibration, outputs, selector, budget, record, reporter))
    done = trainer.train(trainer.resolved(HEAD, "head"), lambda _: None)
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


def test_rates_are_shares_of_the_measured_edge() -> None:
    """Without a rate of its own a candidate trains at its share of what its scope stands."""
    shares = [Candidate("cross_entropy", edge_share=share, epochs=1, scope="all") for share in (0.5, 0.125)]
    head = Candidate("cross_entropy", edge_share=0.25, epochs=1, scope="head")
    result = run(*shares, head, combine=False)
    used = [c.hyperparameters["learning_rate"] for c in result.candidates[1:]]
    assert set(result.rates) == {"all", "head"}
    expected = [0.5 * result.rates["all"], 0.125 * result.rates["all"], 0.25 * result.rates["head"]]
    assert used == pytest.approx(expected)
    assert result.candidates[3].name.endswith("head")


def test_signs_of_fedlas_are_kept() -> None:
    """Smoothing stays in (0, 2α), the gate is a sign, and rows are right where the finalist is right."""
    result, (_, (inputs, targets), _) = run(HOT), noisy_digits()
    diagnostics, trained = result.diagnostics, result.trained
    assert diagnostics is not None
    assert trained is not None
    assert 0 < diagnostics.epsilon.min() <= diagnostics.epsilon.max() < 0.4
    assert set(np.unique(diagnostics.gate)) <= {-1.0, 1.0}
    logits, features = predict_logits(trained.classifier, inputs)
    np.testing.assert_array_equal(diagnostics.correct, logits.argmax(axis=1) == targets)
    np.testing.assert_allclose(diagnostics.feature_norms, np.abs(features).sum(axis=1), rtol=1e-5)
    assert run(Candidate("cross_entropy", 0.1, epochs=1, scope="all")).diagnostics is None


def test_a_candidate_reads_well_as_json() -> None:
    """A result names method, settings, scores and calibrator, ready for the report."""
    shown = json.loads(json.dumps(plain_race().candidates[1].as_dict()))
    assert (shown["name"], shown["scope"]) == ("fedlas α=0.2 lr=0.2", "all")
    assert shown["calibrator"]["name"] == "temperature"
    assert set(shown["calibration"]) == {"nll", "accuracy", "brier", "ece"}


def test_no_public_name_is_hidden_by_a_module() -> None:
    """A module of the package hides a lazily loaded name that is spelled the same, as soon as it is imported."""
    modules = {module.name for module in pkgutil.iter_modules(fedlas.race.__path__)}
    assert not modules & set(fedlas.race.__all__)
