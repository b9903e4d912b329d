"""The race as a whole: who is named, what it costs, what it says, and that it touches nothing of its owner's."""

from __future__ import annotations

import itertools
import json
import pkgutil
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import fedlas.race
from fedlas import metrics
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.race import time_budget
from fedlas.race.candidate_training import Trainer, copy_head, train_config
from fedlas.race.candidates import Candidate, make_loss
from fedlas.race.context import RaceContext, TrainingRows
from fedlas.race.ensemble import Ensemble
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import ProgressReporter
from fedlas.race.race import run_race
from fedlas.race.record import Record
from fedlas.race.results import RaceProgress, RaceResult
from fedlas.race.resume import DIVERGED, OUT_OF_TIME, TrainingOutcome
from fedlas.race.scoring import cross_fitted_logits, make_folds, row_nll, score
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget
from fedlas.training.fit import fit, head_logits, predict_logits
from fedlas.training.loop import EpochResult
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier

HOT = Candidate("fedlas", 0.2, alpha=0.2, beta=4.0, momentum=0.95, epochs=6, scope="all")
HOT_PLUS = Candidate("fedlas_plus", 0.2, alpha=0.1, beta=0.5, momentum=0.95, margin=6.0, epochs=6, scope="all")
PLAIN = Candidate("cross_entropy", 0.2, epochs=6, scope="all")
HEAD = Candidate("cross_entropy", 0.05, epochs=4, scope="head")


def run(*candidates: Candidate, budget_seconds: float = 600, classifier: Any = None, **options: Any) -> RaceResult:
    """A race on the digits with nothing but temperatures, unless `calibrators` says otherwise."""
    train, calibration, _ = noisy_digits()
    settings: dict[str, Any] = {
        "training": TrainingRows.of(train, calibration),
        "calibration": calibration,
        "calibrators": ("temperature",),
        **options,
    }
    network = overconfident_classifier() if classifier is None else classifier
    return run_race(network, candidates=candidates, budget_seconds=budget_seconds, **settings)


@cache
def plain_race() -> RaceResult:
    return run(HOT, HOT_PLUS, PLAIN)


def nll(probs: np.ndarray, targets: np.ndarray) -> float:
    return float(metrics.nll(probs, targets))


def test_the_best_candidate_is_named() -> None:
    """The refit is of the candidate with the lowest out-of-fold NLL, and beats uploaded + temperature on new rows."""
    result, (*_, test) = plain_race(), noisy_digits()
    assert [c.status for c in result.candidates] == ["finished"] * 4
    assert result.trained is not None
    scores = {c.name: c.calibration["nll"] for c in result.candidates if c.calibration}
    assert scores[result.trained.result.name] == min(scores.values()) < scores["uploaded + temperature"]
    assert result.order[0] == "trained"
    assert nll(result.trained.probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])


def test_every_row_is_scored_by_a_network_that_has_not_seen_it() -> None:
    """A fold's logits are those of a network trained on the train rows and the other folds alone, bit by bit."""
    train, (inputs, targets), _ = noisy_digits()
    result = plain_race()
    trained = result.trained
    assert trained is not None
    assert trained.out_of_fold_logits is not None
    candidate = next(c for c in (HOT, HOT_PLUS, PLAIN) if c.name == trained.result.name)
    for fold in make_folds(targets, seed=0, num_folds=3):
        network, others = overconfident_classifier(), np.delete(np.arange(len(targets)), fold)
        rows = [np.concatenate([train[0][0], inputs[0][others]])], np.concatenate([train[1], targets[others]])
        loss = make_loss(candidate, 10, seed=0)
        fit(network, loss, rows[0], rows[1], train_config(candidate, 0), device="cpu")
        expected = predict_logits(network, [inputs[0][fold]])[0]
        np.testing.assert_array_equal(trained.out_of_fold_logits[fold], expected)


def test_the_refit_has_seen_all_rows_and_its_calibrator_none_of_its_logits() -> None:
    """The served network is trained on all rows; its temperature is that of the out-of-fold logits."""
    (train, calibration, _), result = noisy_digits(), plain_race()
    trained = result.trained
    assert trained is not None
    assert trained.out_of_fold_logits is not None
    candidate = next(c for c in (HOT, HOT_PLUS, PLAIN) if c.name == trained.result.name)
    network, rows = overconfident_classifier(), TrainingRows.of(train, calibration)
    fit(network, make_loss(candidate, 10, seed=0), rows.inputs, rows.targets, train_config(candidate, 0), device="cpu")
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained.classifier.state_dict()[name])
    wanted = TemperatureScaling().fit(trained.out_of_fold_logits, calibration[1])
    assert trained.calibrator.parameters() == wanted.parameters()


def test_scores_are_those_of_out_of_fold_logits() -> None:
    """Temperatures of the other folds reproduce the published scores, of the upload and of the refit, exactly."""
    result, (_, (inputs, targets), _) = plain_race(), noisy_digits()
    folds = CalibratorSelector(targets, ("temperature",), False).folds
    assert result.trained is not None
    assert result.trained.out_of_fold_logits is not None
    uploaded = predict_logits(result.post_hoc.classifier, inputs)[0]
    for finalist, logits in ((result.post_hoc, uploaded), (result.trained, result.trained.out_of_fold_logits)):
        held_out = cross_fitted_logits(TemperatureScaling, logits.astype(np.float64), targets, folds)
        assert score(held_out, targets) == finalist.result.calibration
        np.testing.assert_array_equal(held_out, finalist.held_out)
    np.testing.assert_array_equal(result.out_of_fold["trained"], row_nll(result.trained.held_out, targets))
    assert set(result.out_of_fold) == {"uploaded", "temperature", "post_hoc", "trained"}
    assert set(result.by_method) == {"fedlas", "fedlas_plus", "cross_entropy"}
    assert sorted(result.compared_rows) == list(range(len(targets)))


def test_the_lower_out_of_fold_loss_comes_first() -> None:
    """A training that changes next to nothing stands behind the calibrators it cannot beat."""
    idle = run(Candidate("cross_entropy", 1e-9, epochs=1, scope="all"), calibrators=None)
    assert idle.candidates[1].status == "finished"
    assert idle.order[0] == "post_hoc"


def test_of_many_candidates_three_run_all_folds() -> None:
    """Five candidates run two folds, the best three the third; the others say so, with their scores."""
    line = [replace(PLAIN, learning_rate=rate) for rate in (0.01, 0.02, 0.05, 0.1, 0.2)]
    result = run(*line)
    ended = [c.status for c in result.candidates[1:]]
    assert (ended.count("finished"), ended.count("eliminated")) == (3, 2)
    (reason,) = {c.reason for c in result.candidates if c.status == "eliminated"}
    assert reason == "after 2 of 3 folds it was not among the best 3"
    assert all(c.calibration for c in result.candidates)
    first, second, _ = make_folds(noisy_digits()[1][1], seed=0, num_folds=3)
    assert result.compared_rows.tolist() == [*first, *second], "methods are compared on what all have run"
    assert len(result.by_method["cross_entropy"]) == len(first) + len(second)


def test_calibration_rows_alone_can_teach() -> None:
    """Without train rows the folds teach each other, and the refit beats a temperature on new rows."""
    _, calibration, test = noisy_digits()
    result = run(replace(PLAIN, learning_rate=0.02), training=TrainingRows.of(None, calibration))
    assert result.trained is not None
    assert nll(result.trained.probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])


def test_folds_keep_groups_whole() -> None:
    """Of two groups each is left out once, and no network of a fold has seen a row of its group."""
    train, calibration, _ = noisy_digits()
    groups = np.arange(len(calibration[1])) % 2
    result = run(PLAIN, groups=groups)
    assert result.trained is not None
    assert result.trained.out_of_fold_logits is not None
    network, others = overconfident_classifier(), groups == 1
    rows = [np.concatenate([train[0][0], calibration[0][0][others]])]
    fit(
        network,
        make_loss(PLAIN, 10, seed=0),
        rows,
        np.concatenate([train[1], calibration[1][others]]),
        train_config(PLAIN, 0),
        device="cpu",
    )
    expected = predict_logits(network, [calibration[0][0][~others]])[0]
    np.testing.assert_array_equal(result.trained.out_of_fold_logits[~others], expected)
    alone = run(PLAIN, groups=np.zeros(len(groups)))
    assert "one group" in alone.candidates[1].reason


def test_few_calibration_rows_train_nothing() -> None:
    """Ninety-nine rows cannot both teach and tell; the candidates are skipped with that reason."""
    train, (inputs, targets), _ = noisy_digits()
    few = ([inputs[0][:99]], targets[:99])
    result = run(HOT, training=TrainingRows.of(train, few), calibration=few)
    assert "99 calibration rows are too few" in result.candidates[1].reason
    assert result.trained is None


def test_the_average_joins_upload_and_refit() -> None:
    """With a cost factor of 2 the pool of both is named: its probabilities are the weighted mean of what both say."""
    *_, test = noisy_digits()
    result = run(HOT, max_cost_factor=2.0)
    average = result.finalists["average"]
    network = average.classifier
    assert isinstance(network, Ensemble)
    assert average.cost_factor == 2.0
    assert network.networks[0] is result.post_hoc.classifier
    assert result.trained is not None
    weights = average.result.hyperparameters["weights"]
    assert sum(weights) == pytest.approx(1, abs=1e-3)
    logits = [predict_logits(one, test[0])[0] for one in network.networks]
    said = [softmax(c(one)) for c, one in zip(network.calibrators, logits, strict=True)]
    expected = sum(w * one for w, one in zip(weights, said, strict=True))
    np.testing.assert_allclose(average.probs(test[0]), expected, atol=2e-4)
    assert nll(average.probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])
    assert "average" not in run(HOT, max_cost_factor=1.0).finalists


def test_two_refits_are_averaged_where_three_networks_are_paid_for() -> None:
    """With a cost factor of 3 the two best candidates are trained on all rows."""
    result = run(HOT, HOT_PLUS, max_cost_factor=3.0)
    average = result.finalists["average"]
    assert {HOT.name, HOT_PLUS.name} <= set(average.result.hyperparameters["members"])
    assert average.cost_factor == len(average.result.hyperparameters["members"])


def test_the_uploaded_network_is_left_alone() -> None:
    """After a race of bodies, heads and averages the uploaded network has the weights and logits it came with."""
    _, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = predict_logits(classifier, calibration[0])[0]
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    result = run(HOT, HEAD, classifier=classifier, max_cost_factor=3.0)
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


def test_no_rows_train_nothing() -> None:
    """Without rows to train on the candidates are skipped with that reason, and the temperature is fitted."""
    result = run(HOT, HEAD, training=None)
    assert [c.reason for c in result.candidates[1:]] == ["there are no rows to train on"] * 2
    assert result.trained is None
    assert result.post_hoc.result.status == "finished"


def test_a_network_without_weights_trains_nothing() -> None:
    """Frozen weights are said to be the reason."""
    result = run(HOT, classifier=overconfident_classifier().requires_grad_(False))
    assert "no weights" in result.candidates[1].reason


class SlowClassifier(SmallClassifier):
    """Its body wastes time in training mode, as a large network would."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training:
            time.sleep(0.2)
        return super().forward(*inputs)


def test_where_the_network_does_not_fit_the_head_is_trained() -> None:
    """A slow body leaves head-only candidates; one that insists on the whole network is skipped, and a note says so."""
    slow = SlowClassifier(64, 10)
    slow.load_state_dict(overconfident_classifier().state_dict())
    candidates = [Candidate("cross_entropy", scope=scope) for scope in ("auto", "all")]
    result = run(*candidates, classifier=slow, budget_seconds=12.0)
    assert [(c.scope, c.status) for c in result.candidates[1:]] == [("head", "finished"), ("all", "skipped")]
    assert any("head" in note for note in result.notes)


def test_progress_is_told_in_order() -> None:
    """Folds, then the refit, each from epoch 0 on; the fraction never falls and ends at one."""
    seen: list[RaceProgress] = []
    result = run(HOT, HOT_PLUS, on_progress=seen.append)
    told = [(key, [p.epoch for p in steps]) for key, steps in itertools.groupby(seen, key=lambda p: p.name)]
    assert result.trained is not None
    names = [f"{one.name}, fold {fold} of 3" for one in (HOT, HOT_PLUS) for fold in (1, 2, 3)]
    assert told == [(name, list(range(7))) for name in [*names, f"{result.trained.result.name}, on all rows"]]
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert {p.candidates for p in seen} == {2}
    assert all(p.eta_seconds is not None and 0 <= p.eta_seconds <= 600 for p in seen)


@pytest.mark.parametrize("number", [1, 5, 14, 46])
def test_what_the_callback_raises_ends_the_race(number: int) -> None:
    """Before a training, after an epoch, or in the refit: the exception passes through."""
    calls = itertools.count(1)

    def stop(progress: RaceProgress) -> None:
        if next(calls) == number:
            raise KeyboardInterrupt(progress.name)

    with pytest.raises(KeyboardInterrupt):
        run(HOT, HOT_PLUS, on_progress=stop)


def test_a_refit_that_fails_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the best candidate diverges on all rows the next one is refitted, and a note says so."""
    train = Trainer.train

    def failing(self: Trainer, candidate: Candidate, *args: Any, left_out: Any = None, **options: Any) -> Any:
        if left_out is None and candidate.method == best:
            return DIVERGED
        return train(self, candidate, *args, left_out=left_out, **options)

    trained = run(HOT, PLAIN).trained
    assert trained is not None
    best = trained.result.method
    monkeypatch.setattr(Trainer, "train", failing)
    result = run(HOT, PLAIN)
    assert result.trained is not None
    assert {result.trained.result.method, best} == {"fedlas", "cross_entropy"}
    assert any("could not be trained on all rows: its loss stopped being finite" in note for note in result.notes)


@pytest.mark.parametrize(("slower", "finished"), [(1.0, 3), (2.0, 1), (2.6, 1)])
def test_a_slower_machine_still_ends_with_a_refit(
    monkeypatch: pytest.MonkeyPatch, slower: float, finished: int
) -> None:
    """Where trainings take longer than measured fewer candidates run, the best is refitted, the budget is kept."""
    clock, step = [0.0], 0.1
    epoch = step * (1300 // 64)

    def train(self: Trainer, candidate: Candidate, on_epoch: Any, *, left_out: Any, name: str) -> TrainingOutcome:
        began, epochs = clock[0], candidate.epochs or 1
        for number in range(1, epochs + 1):
            clock[0] += slower * epoch
            try:
                on_epoch(EpochResult(number, epochs, 0.0, clock[0] - began))
            except time_budget.BudgetExceeded:
                return OUT_OF_TIME
        rows = np.arange(400) if left_out is None else left_out
        logits = (5 * np.eye(10)[noisy_digits()[1][1][rows]]).astype(np.float32)
        network = overconfident_classifier() if left_out is None else None
        features = np.zeros((400, 32), np.float32)
        return TrainingOutcome(network, logits, features, seconds=clock[0] - began)

    monkeypatch.setattr(Record, "elapsed", lambda self: clock[0])
    monkeypatch.setattr(time_budget, "_measured_step", lambda *_: step / time_budget._CAUTION)
    monkeypatch.setattr(time_budget.TimeBudget, "prediction_seconds", lambda *_: 0.0)
    monkeypatch.setattr("fedlas.race.race.seconds_of_pools", lambda *_: 0.0)
    monkeypatch.setattr(Trainer, "train", train)
    budget = 10.5 * epoch * 6  # three candidates of six epochs on three folds, and a refit
    result = run(HOT, HOT_PLUS, PLAIN, budget_seconds=budget)
    assert clock[0] <= 1.1 * budget
    assert result.trained is not None
    assert [c.status for c in result.candidates[1:]].count("finished") == finished


def test_a_fold_that_fails_costs_its_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate whose second fold runs out of memory is skipped with the reason; the others go on."""
    train = Trainer._trained

    def failing(self: Trainer, candidate: Candidate, network: Any, left_out: Any, *args: Any) -> Any:
        if candidate.method == "fedlas" and left_out is not None and left_out.tolist() == second:
            raise torch.OutOfMemoryError
        return train(self, candidate, network, left_out, *args)

    second = make_folds(noisy_digits()[1][1], seed=0, num_folds=3)[1].tolist()
    monkeypatch.setattr(Trainer, "_trained", failing)
    result = run(HOT, PLAIN)
    assert [(c.status, c.reason) for c in result.candidates[1:]] == [
        ("skipped", "it does not fit into the device's memory"),
        ("finished", ""),
    ]
    assert result.trained is not None
    assert result.trained.result.method == "cross_entropy"


def test_heads_share_the_memory_of_their_body() -> None:
    """A head's network has the uploaded body's very memory, a head of its own, and leaves the uploaded head alone."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    outputs, record = SplitOutputs(classifier, calibration[0], split="calibration"), Record()
    budget, selector = TimeBudget(60.0, record), CalibratorSelector(calibration[1], ["temperature"], False)
    reporter = ProgressReporter(budget, record, None, None)
    rows = TrainingRows.of(train, calibration)
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


def test_rates_are_shares_of_the_measured_edge() -> None:
    """Without a rate of its own a candidate trains at its share of what its scope stands."""
    shares = [Candidate("cross_entropy", edge_share=share, epochs=1, scope="all") for share in (0.5, 0.125)]
    head = Candidate("cross_entropy", edge_share=0.25, epochs=1, scope="head")
    result = run(*shares, head)
    used = [c.hyperparameters["learning_rate"] for c in result.candidates[1:]]
    assert set(result.rates) == {"all", "head"}
    expected = [0.5 * result.rates["all"], 0.125 * result.rates["all"], 0.25 * result.rates["head"]]
    assert used == pytest.approx(expected)
    assert result.candidates[3].name.endswith("head")


def test_signs_of_fedlas_are_kept() -> None:
    """Smoothing stays in (0, 2α), the gate is a sign, and rows are right where the network of their fold is right."""
    result, (_, (_, targets), _) = run(HOT), noisy_digits()
    diagnostics, trained = result.diagnostics, result.trained
    assert diagnostics is not None
    assert trained is not None
    assert trained.out_of_fold_logits is not None
    assert 0 < diagnostics.epsilon.min() <= diagnostics.epsilon.max() < 0.4
    assert set(np.unique(diagnostics.gate)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(diagnostics.correct, trained.out_of_fold_logits.argmax(axis=1) == targets)
    assert len(diagnostics.feature_norms) == len(targets)
    assert run(Candidate("cross_entropy", 0.1, epochs=1, scope="all")).diagnostics is None


def test_a_candidate_reads_well_as_json() -> None:
    """A result names method, settings, scores and calibrator, ready for the report."""
    shown = json.loads(json.dumps(plain_race().candidates[1].as_dict()))
    assert (shown["name"], shown["scope"]) == ("fedlas α=0.2 lr=0.2 6 epochs", "all")
    assert shown["calibrator"]["name"] == "temperature"
    assert set(shown["calibration"]) == {"nll", "accuracy", "brier", "ece"}


def test_no_public_name_is_hidden_by_a_module() -> None:
    """A module of the package hides a lazily loaded name that is spelled the same, as soon as it is imported."""
    modules = {module.name for module in pkgutil.iter_modules(fedlas.race.__path__)}
    assert not modules & set(fedlas.race.__all__)
