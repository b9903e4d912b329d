"""Cross-fitting: who trains on which rows, what a fold that fails costs, and that the budget is kept."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedlas.calibrators import TemperatureScaling
from fedlas.progress import JobProgress
from fedlas.race import schedule
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.candidates import Candidate, make_loss
from fedlas.race.record import Record
from fedlas.race.results import make_folds
from fedlas.race.trainer import DIVERGED, OUT_OF_TIME, Trainer, TrainingOutcome, train_config
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import EpochResult
from tests.helpers.races import HEAD, HOT, HOT_PLUS, PLAIN, Heard, nll, plain_race, race, training_rows
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier


def test_every_row_is_scored_by_a_network_that_has_not_seen_it() -> None:
    """A fold's logits are those of a network trained on the train rows and the other folds alone, bit by bit."""
    train, (inputs, targets), _ = noisy_digits()
    trained = plain_race().finalists["trained"]
    assert trained is not None
    assert trained.out_of_fold_logits is not None
    candidate = next(c for c in (HOT, HOT_PLUS, PLAIN) if c.name == trained.result.name)
    for fold in make_folds(targets, seed=0, num_folds=3):
        network, others = overconfident_classifier(), np.delete(np.arange(len(targets)), fold)
        rows = [np.concatenate([train[0][0], inputs[0][others]])], np.concatenate([train[1], targets[others]])
        fit(network, make_loss(candidate, 10, seed=0), rows[0], rows[1], train_config(candidate, 0), device="cpu")
        np.testing.assert_array_equal(trained.out_of_fold_logits[fold], predict_logits(network, [inputs[0][fold]])[0])


def test_the_refit_has_seen_all_rows_and_its_calibrator_none_of_its_logits() -> None:
    """The served network is trained on all rows; its temperature is that of the out-of-fold logits."""
    (train, calibration, _), result = noisy_digits(), plain_race()
    trained = result.finalists["trained"]
    assert trained is not None
    assert trained.out_of_fold_logits is not None
    candidate = next(c for c in (HOT, HOT_PLUS, PLAIN) if c.name == trained.result.name)
    network, rows = overconfident_classifier(), training_rows(train, calibration)
    fit(network, make_loss(candidate, 10, seed=0), rows.inputs, rows.targets, train_config(candidate, 0), device="cpu")
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained.classifier.state_dict()[name])
    wanted = TemperatureScaling().fit(trained.out_of_fold_logits, calibration[1])
    assert trained.calibrator.parameters() == wanted.parameters()


def test_of_many_candidates_three_run_all_folds() -> None:
    """Five candidates run two folds, the best three the third; the others say so, with their scores."""
    result = race(*(replace(PLAIN, learning_rate=rate) for rate in (0.01, 0.02, 0.05, 0.1, 0.2)))
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
    result = race(replace(PLAIN, learning_rate=0.02), training=training_rows(None, calibration))
    assert "trained" in result.finalists
    assert nll(result.finalists["trained"].probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])


def test_folds_keep_groups_whole() -> None:
    """Each of two groups is left out once, and no network of a fold has seen a row of its group."""
    train, calibration, _ = noisy_digits()
    groups = np.arange(len(calibration[1])) % 2
    result = race(PLAIN, groups=groups)
    assert "trained" in result.finalists
    assert result.finalists["trained"].out_of_fold_logits is not None
    network, others = overconfident_classifier(), groups == 1
    fit(
        network,
        make_loss(PLAIN, 10, seed=0),
        [np.concatenate([train[0][0], calibration[0][0][others]])],
        np.concatenate([train[1], calibration[1][others]]),
        train_config(PLAIN, 0),
        device="cpu",
    )
    expected = predict_logits(network, [calibration[0][0][~others]])[0]
    np.testing.assert_array_equal(result.finalists["trained"].out_of_fold_logits[~others], expected)
    assert "one group" in race(PLAIN, groups=np.zeros(len(groups))).candidates[1].reason


def test_few_calibration_rows_train_nothing() -> None:
    """Ninety-nine rows cannot both teach and tell; the candidates are skipped with that reason."""
    train, (inputs, targets), _ = noisy_digits()
    few = ([inputs[0][:99]], targets[:99])
    result = race(HOT, training=training_rows(train, few), calibration=few)
    assert "99 calibration rows are too few" in result.candidates[1].reason
    assert "trained" not in result.finalists


def test_no_rows_train_nothing() -> None:
    """Without rows to train on the candidates are skipped with that reason, and the temperature is fitted."""
    result = race(HOT, HEAD, training=None)
    assert [c.reason for c in result.candidates[1:]] == ["there are no rows to train on"] * 2
    assert "trained" not in result.finalists
    assert result.post_hoc.result.status == "finished"


def test_a_network_without_weights_trains_nothing() -> None:
    """Frozen weights are named as the reason."""
    assert "no weights" in race(HOT, classifier=overconfident_classifier().requires_grad_(False)).candidates[1].reason


class SlowClassifier(SmallClassifier):
    """A classifier whose body wastes time in training mode, as a large network would."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training:
            time.sleep(0.2)
        return super().forward(*inputs)


def test_where_the_network_does_not_fit_the_head_is_trained() -> None:
    """A slow body leaves head-only candidates; one that insists on the whole network is skipped, and a note says so."""
    slow = SlowClassifier(64, 10)
    slow.load_state_dict(overconfident_classifier().state_dict())
    candidates = [Candidate("cross_entropy", scope=scope) for scope in ("auto", "all")]
    result = race(*candidates, classifier=slow, budget_seconds=12.0)
    assert [(c.scope, c.status) for c in result.candidates[1:]] == [("head", "finished"), ("all", "skipped")]
    assert any("head" in note for note in result.notes)


def test_progress_is_told_in_order() -> None:
    """Folds, then the refit, each from epoch 0 on; the fraction never falls; the time left comes after the first."""
    heard, progress = Heard(), JobProgress()
    result = race(HOT, HOT_PLUS, observer=heard, progress=progress)
    seen = heard.progress
    told = [(key, [p.epoch for p in steps]) for key, steps in itertools.groupby(seen, key=lambda p: p.candidate)]
    assert "trained" in result.finalists
    names = [f"{one.name}, fold {fold} of 3" for one in (HOT, HOT_PLUS) for fold in (1, 2, 3)]
    names.append(f"{result.finalists['trained'].result.name}, on all rows")
    assert told == [(name, list(range(7))) for name in names]
    fractions = [*(p.fraction for p in seen), progress.position().fraction]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(0.9)
    etas = [p.eta_seconds for p in seen]
    assert etas[:7] == [None] * 7
    assert all(eta is not None and 0 <= eta <= 600 for eta in etas[7:])
    assert (progress.position().trained, progress.position().planned) == (7, 7)


def test_a_refit_that_fails_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the best candidate diverges on all rows the next one is refitted, and a note says so."""
    train = Trainer.train

    def failing(self: Trainer, candidate: Candidate, *args: Any, left_out: Any = None, **options: Any) -> Any:
        if left_out is None and candidate.method == best:
            return DIVERGED
        return train(self, candidate, *args, left_out=left_out, **options)

    trained = race(HOT, PLAIN).finalists["trained"]
    assert trained is not None
    best = trained.result.method
    monkeypatch.setattr(Trainer, "train", failing)
    result = race(HOT, PLAIN)
    assert "trained" in result.finalists
    assert {result.finalists["trained"].result.method, best} == {"fedlas", "cross_entropy"}
    assert any("could not be trained on all rows: its loss stopped being finite" in note for note in result.notes)


#: Seconds of an epoch of the digits where a step of a whole network is measured to take 0.1 s.
EPOCH = 0.1 * (1300 // 64)


def on_a_clock(monkeypatch: pytest.MonkeyPatch, slower: float) -> list[float]:
    """Let trainings alone take time, those of whole networks so much more than measured; returns the clock."""
    clock = [0.0]

    def train(self: Trainer, candidate: Candidate, on_epoch: Any, *, left_out: Any, **_: Any) -> TrainingOutcome:
        began, epochs = clock[0], candidate.epochs or 1
        for number in range(1, epochs + 1):
            clock[0] += EPOCH * (slower if candidate.scope == "all" else 0.01)
            try:
                on_epoch(EpochResult(number, epochs, 0.0, clock[0] - began))
            except schedule.BudgetExceeded as late:
                return replace(OUT_OF_TIME, seconds=clock[0] - began, share=late.share)
        rows = np.arange(400) if left_out is None else left_out
        logits = (5 * np.eye(10)[noisy_digits()[1][1][rows]]).astype(np.float32)
        network = overconfident_classifier() if left_out is None else None
        return TrainingOutcome(network, logits, np.zeros((400, 32), np.float32), seconds=clock[0] - began)

    def step(_: object, *args: Any) -> float:
        return (0.1 if args[2].scope == "all" else 0.001) / schedule._CAUTION

    monkeypatch.setattr(Record, "elapsed", lambda self: clock[0])
    monkeypatch.setattr(schedule, "_measured_step", step)
    monkeypatch.setattr(schedule.TimeBudget, "prediction_seconds", lambda *_: 0.0)
    monkeypatch.setattr(CalibratorSelector, "pool_seconds", property(lambda _: 0.0, lambda *_: None))
    monkeypatch.setattr(Trainer, "train", train)
    return clock


@pytest.mark.parametrize(("slower", "finished"), [(1.0, 3), (2.0, 1), (2.6, 1)])
def test_a_slower_machine_ends_with_a_refit(monkeypatch: pytest.MonkeyPatch, slower: float, finished: int) -> None:
    """Where trainings take longer than measured fewer candidates run, the best is refitted, the budget is kept."""
    clock, budget = on_a_clock(monkeypatch, slower), 10.5 * EPOCH * 6  # three candidates on three folds, and a refit
    result = race(HOT, HOT_PLUS, PLAIN, budget_seconds=budget)
    assert clock[0] <= 1.1 * budget
    assert "trained" in result.finalists
    assert [c.status for c in result.candidates[1:]].count("finished") == finished


@pytest.mark.parametrize(("slower", "epochs", "folds"), [(0.9, 6, 3), (1.5, 3, 3), (2.6, 2, 2)])
def test_who_is_late_runs_again_for_less(
    monkeypatch: pytest.MonkeyPatch, slower: float, epochs: int, folds: int
) -> None:
    """One candidate fits at the measured speed; 1.5 times slower 3 of its 6 epochs do, 2.6 times 2 on two folds."""
    clock, budget = on_a_clock(monkeypatch, slower), 22.2 * EPOCH
    result = race(Candidate("cross_entropy", 0.2, usual_epochs=6, scope="all"), budget_seconds=budget)
    assert (result.candidates[1].status, result.candidates[1].hyperparameters["epochs"]) == ("finished", epochs)
    wasted = 0 if epochs == 6 else 1  # the epoch that tells the speed
    assert clock[0] == pytest.approx(slower * EPOCH * (wasted + (folds + 1) * epochs))
    assert "trained" in result.finalists
    assert [note[:29] for note in result.notes] == ["The budget left time for 2 fo"] * (folds == 2)


def test_where_no_whole_network_ends_in_time_the_head_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is late after one epoch, the other does not begin; both heads run, and the note tells the minutes.

    One candidate takes 22.15 epochs as planned, 86 at the speed that was measured; 18.7 are left, and the 68 that are
    missing, of two seconds each, are 2.3 minutes.
    """
    clock, budget = on_a_clock(monkeypatch, 3.5), 22.2 * EPOCH
    both = [Candidate(method, 0.2, epochs=6) for method in ("cross_entropy", "focal")]
    result = race(*both, budget_seconds=budget)
    assert [(c.scope, c.status) for c in result.candidates[1:3]] == [("head", "finished")] * 2
    assert 3.5 * EPOCH < clock[0] < 4 * EPOCH
    assert result.notes == (
        f"The budget left no time for {both[0].name}, {both[1].name}: 3 more minutes would have let {both[0].name} run "
        "in full; no whole network was trained to its end, and at most its head could be trained instead",
    )


def test_what_is_left_trains_a_shorter_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one candidate half of the budget is left: 3 epochs of the next fit; the third would need 31 s more."""
    clock, budget = on_a_clock(monkeypatch, 1.0), 36 * EPOCH
    line = [Candidate("cross_entropy", rate, usual_epochs=6, scope="all") for rate in (0.1, 0.05, 0.02)]
    result = race(*line, budget_seconds=budget)
    assert [c.status for c in result.candidates[1:4]] == ["finished", "finished", "skipped"]
    assert [c.hyperparameters["epochs"] for c in result.candidates[1:3]] == [6, 3]
    assert clock[0] == pytest.approx(33 * EPOCH), "of 36: 18 + 9 on folds, and a refit of 6"
    name = line[2].name
    assert f"The budget left no time for {name}: 1 more minute would have let {name} run in full" in result.notes


def test_a_fold_that_fails_costs_its_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate whose second fold diverges is out; the others go on."""
    train = Trainer._trained

    def failing(self: Trainer, candidate: Candidate, network: Any, left_out: Any, *args: Any) -> Any:
        if candidate.method == "fedlas" and left_out is not None and left_out.tolist() == second:
            return DIVERGED
        return train(self, candidate, network, left_out, *args)

    second = make_folds(noisy_digits()[1][1], seed=0, num_folds=3)[1].tolist()
    monkeypatch.setattr(Trainer, "_trained", failing)
    result = race(HOT, PLAIN)
    diverged = ("diverged", "its loss stopped being finite")
    assert [(c.status, c.reason) for c in result.candidates[1:]] == [diverged, ("finished", "")]
    assert "trained" in result.finalists
    assert result.finalists["trained"].result.method == "cross_entropy"


def test_signs_of_fedlas_are_kept() -> None:
    """Smoothing stays in (0, 2α), the gate is a sign, and rows are right where the network of their fold is right."""
    result, (_, (_, targets), _) = race(HOT), noisy_digits()
    diagnostics, trained = result.diagnostics, result.finalists["trained"]
    assert diagnostics is not None
    assert trained is not None
    assert trained.out_of_fold_logits is not None
    assert 0 < diagnostics.epsilon.min() <= diagnostics.epsilon.max() < 0.4
    assert set(np.unique(diagnostics.gate)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(diagnostics.correct, trained.out_of_fold_logits.argmax(axis=1) == targets)
    assert len(diagnostics.feature_norms) == len(targets)
    assert race(Candidate("cross_entropy", 0.1, epochs=1, scope="all")).diagnostics is None


def test_rates_are_shares_of_the_measured_edge() -> None:
    """Without a rate of its own a candidate trains at its share of what its scope stands."""
    shares = [Candidate("cross_entropy", edge_share=share, epochs=1, scope="all") for share in (0.5, 0.125)]
    result = race(*shares, Candidate("cross_entropy", edge_share=0.25, epochs=1, scope="head"))
    used = [c.hyperparameters["learning_rate"] for c in result.candidates[1:]]
    assert set(result.rates) == {"all", "head"}
    assert used == pytest.approx([0.5 * result.rates["all"], 0.125 * result.rates["all"], 0.25 * result.rates["head"]])
    assert result.candidates[3].name.endswith("head")
