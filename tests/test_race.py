"""The recipe and the race: order, guard, budget, and that it repeats itself."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from fedlas import metrics
from fedlas.calibrators import AffineScaling, softmax
from fedlas.losses import FedLASLoss, FedLASPlusLoss
from fedlas.race import METHODS, Candidate, RaceProgress, RaceResult, check_hyperparameters, make_loss, race, recipe
from fedlas.race.candidates import for_head
from fedlas.race.scoring import cross_fitted_nll, fit_calibrator
from fedlas.train import predict_logits
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier
from tests.test_calibrators import binary

HOT = Candidate("fedlas", 0.2, alpha=0.2, beta=4.0, momentum=0.95)
HOT_PLUS = Candidate("fedlas_plus", 0.2, alpha=0.1, beta=0.5, momentum=0.95, margin=6.0)


def run(*candidates: Candidate, budget_seconds: float = 600, **options: object) -> RaceResult:
    train, calibration, _ = noisy_digits()
    settings = {"train": train, "calibration": calibration, "candidates": candidates, **options}
    return race(overconfident_classifier(), budget_seconds=budget_seconds, **settings)  # type: ignore[arg-type]


def test_the_cheap_version_comes_first() -> None:
    """FedLAS+ at 0.1 and 0.2 and FedLAS 0.1 at 0.2 lead; on fresh rows FedLAS 0.02 at 0.05 follows at once."""
    order = [(c.method, c.alpha, c.learning_rate) for c in recipe("auto", {}, fresh_rows=True)]
    assert order[:4] == [
        ("fedlas_plus", 0.1, 0.1),
        ("fedlas_plus", 0.1, 0.2),
        ("fedlas", 0.1, 0.2),
        ("fedlas", 0.02, 0.05),
    ]
    assert [(c.method, c.alpha, c.learning_rate) for c in recipe("auto", {}, max_candidates=3)] == order[:3]


def test_the_whole_recipe_is_raced() -> None:
    """Four values of alpha and FedLAS+ at three learning rates each: fifteen, and cross-entropy last."""
    candidates = recipe("auto", {"epochs": "auto", "alpha": "auto"})
    expected = {("fedlas", a, r) for a in (0.02, 0.05, 0.1, 0.2) for r in (0.05, 0.1, 0.2)}
    expected |= {("fedlas_plus", 0.1, r) for r in (0.05, 0.1, 0.2)}
    assert {(c.method, c.alpha, c.learning_rate) for c in candidates[:15]} == expected
    assert [c.method for c in candidates[15:]] == ["cross_entropy"]
    assert {(c.epochs, c.batch_size, c.scope) for c in candidates} == {(10, 64, "auto")}


def test_fixed_numbers_leave_no_doubles() -> None:
    """A fixed alpha and learning rate leave one FedLAS candidate with exactly these settings."""
    fixed = {"alpha": 0.3, "learning_rate": 0.03, "epochs": 2, "batch_size": 32, "beta": 2, "scope": "head"}
    (only,) = recipe("fedlas", fixed)
    assert only.hyperparameters() == {
        "alpha": 0.3,
        "beta": 2,
        "momentum": 0.95,
        "learning_rate": 0.03,
        "epochs": 2,
        "batch_size": 32,
    }
    assert only.scope == "head"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_own_loss(method: str) -> None:
    """Each method's candidates make a loss; those that train nothing have no candidates."""
    candidates = recipe(method, {})
    assert bool(candidates) == (method not in ("post_hoc", "temperature"))
    for candidate in candidates:
        assert method in ("auto", candidate.method)
        loss = make_loss(candidate, 10)
        for name in ("alpha", "margin", "beta"):
            if getattr(candidate, name) is not None:
                assert getattr(loss, name) == getattr(candidate, name)


def test_the_gate_starts_from_the_seed() -> None:
    """Two losses of one candidate and seed are equal, and the caller's random state is kept."""
    before = torch.random.get_rng_state()
    first, second, other = (make_loss(HOT, 10, seed=seed) for seed in (1, 1, 2))
    assert isinstance(first, FedLASLoss)
    assert torch.equal(first.bcg.fc_in.weight, second.bcg.fc_in.weight)  # type: ignore[union-attr]
    assert not torch.equal(first.bcg.fc_in.weight, other.bcg.fc_in.weight)  # type: ignore[union-attr]
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(make_loss(HOT_PLUS, 10), FedLASPlusLoss)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.6},
        {"alpha": 0},
        {"alpha": True},
        {"epochs": 0},
        {"epochs": 1.5},
        {"learning_rate": "fast"},
        {"learning_rate": float("nan")},
        {"momentum": 1.5},
        {"scope": "body"},
        {"gamma": 3},
    ],
)
def test_wrong_hyperparameters_are_named(wrong: dict[str, object]) -> None:
    """A value out of range or an unknown name is a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        check_hyperparameters(wrong)
    with pytest.raises(ValueError, match="method"):
        recipe("magic", {})


def test_the_best_candidate_wins() -> None:
    """The trained finalist has the lowest calibration NLL, lower than uploaded + temperature, and computes it."""
    result = run(HOT, HOT_PLUS)
    _, calibration, test = noisy_digits()
    assert [c.status for c in result.candidates] == ["finished"] * 3
    assert result.trained is not None
    scores = {c.name: c.calibration["nll"] for c in result.candidates if c.calibration}
    assert scores[result.trained.result.name] == min(scores.values()) < scores["uploaded + temperature"]
    logits = predict_logits(result.trained.classifier, calibration[0])[0]
    probs = softmax(result.trained.calibrator(logits))
    assert metrics.nll(probs, calibration[1]) == pytest.approx(min(scores.values()), rel=1e-6)
    post_hoc = softmax(result.temperature(predict_logits(result.post_hoc.classifier, test[0])[0]))
    trained = softmax(result.trained.calibrator(predict_logits(result.trained.classifier, test[0])[0]))
    assert metrics.nll(trained, test[1]) < metrics.nll(post_hoc, test[1])


def test_the_uploaded_network_is_left_alone() -> None:
    """After the race the uploaded network still gives the logits it came with."""
    train, calibration, _ = noisy_digits()
    classifier = overconfident_classifier()
    before = predict_logits(classifier, calibration[0])[0]
    result = race(classifier, train=train, calibration=calibration, candidates=[HOT], budget_seconds=600)
    np.testing.assert_array_equal(before, predict_logits(classifier, calibration[0])[0])
    np.testing.assert_array_equal(before, result.base_logits)
    assert result.post_hoc.classifier is classifier


def test_the_race_repeats_itself() -> None:
    """One seed, one result: the same scores and weights to the last bit; another seed gives others."""
    first, second, other = run(HOT, seed=5), run(HOT, seed=5), run(HOT, seed=6)
    assert first.trained is not None
    assert second.trained is not None
    scores = [[c.calibration for c in result.candidates] for result in (first, second, other)]
    assert scores[0] == scores[1] != scores[2]
    pairs = zip(first.trained.classifier.parameters(), second.trained.classifier.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_a_destroyed_model_is_dropped() -> None:
    """A learning rate that ruins accuracy loses at the guard, whatever its calibration error says."""
    ruin = Candidate("cross_entropy", 50.0, epochs=1)
    result = run(ruin)
    assert result.candidates[1].status in ("dropped", "diverged")
    assert result.trained is None


def test_the_guard_is_the_stated_drop() -> None:
    """With an impossible demand on accuracy (a gain of 50 points) every candidate is dropped, with the reason."""
    result = run(HOT, max_accuracy_drop=-0.5)
    assert result.candidates[1].status == "dropped"
    assert "accuracy" in result.candidates[1].reason
    assert result.trained is None


def test_without_time_the_temperature_still_finishes() -> None:
    """A spent budget skips every candidate with a reason; uploaded + temperature is there all the same."""
    result = run(HOT, HOT_PLUS, budget_seconds=0)
    assert [c.status for c in result.candidates] == ["finished", "skipped", "skipped"]
    assert "budget" in result.candidates[1].reason
    assert result.temperature.parameters()["temperature"] > 1


def test_where_the_network_does_not_fit_the_head_is_trained() -> None:
    """A network whose body is slow gets head-only candidates; a candidate that insists on all of it is skipped."""
    train, calibration, _ = noisy_digits()
    slow = SlowClassifier(64, 10)
    slow.load_state_dict(overconfident_classifier().state_dict())
    insisting = Candidate("cross_entropy", 0.1, scope="all")
    candidates = [Candidate("cross_entropy", 0.1), insisting]
    result = race(slow, train=train, calibration=calibration, candidates=candidates, budget_seconds=20.0)
    assert [(c.scope, c.status) for c in result.candidates[1:]] == [("head", "finished"), ("all", "skipped")]
    assert any("head" in note for note in result.notes)


class SlowClassifier(SmallClassifier):
    """Its body wastes time in training mode, as a large network would."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.training:
            time.sleep(0.6)
        return super().forward(*inputs)


def test_no_train_rows_train_nothing() -> None:
    """Without train rows the candidates are skipped and the temperature is fitted."""
    result = run(HOT, train=None)
    assert result.candidates[1].reason == "there are no train rows"
    assert result.trained is None


def test_progress_is_told_in_order() -> None:
    """Candidate and epoch count up, the fraction never falls, and what the callback raises ends the race."""
    seen: list[RaceProgress] = []
    run(HOT, HOT_PLUS, on_progress=seen.append)
    steps = [(p.candidate, p.epoch) for p in seen]
    assert steps == [(1, e) for e in range(11)] + [(2, e) for e in range(11)]
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)
    assert seen[-1].fraction == 1.0

    def stop(_: RaceProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(HOT, on_progress=stop)


def test_binary_problems_choose_their_calibrator_by_cross_fitting() -> None:
    """A shifted base rate calls for the affine calibrator; without a shift the temperature is kept."""
    shifted, straight = binary(1000, 1.0, 1.5), binary(1000, 0.5, 0.0, seed=3)
    names = ("temperature", "affine")
    assert fit_calibrator(*shifted, names, 0.0, seed=0).name == "affine"
    assert fit_calibrator(*straight, names, 0.0, seed=0).name == "temperature"
    assert fit_calibrator(*shifted, names, 1.0, seed=0).name == "temperature", "accuracy 1 is out of reach"


def test_cross_fitting_is_worse_than_the_own_rows() -> None:
    """Rows that were not fitted on score a higher NLL than the fit on all rows gives itself."""
    logits, targets = binary(100, 1.0, 0.5)
    own = metrics.nll(softmax(AffineScaling().fit(logits, targets)(logits)), targets)
    assert cross_fitted_nll(AffineScaling, logits, targets, seed=0) > own


def test_a_candidate_reads_well_as_json() -> None:
    """A result names method, settings, scores and calibrator, ready for the report."""
    shown = run(HOT).candidates[1].as_dict()
    assert shown["name"] == "fedlas α=0.2 lr=0.2"
    assert shown["scope"] == "all"
    assert shown["calibrator"]["name"] == "temperature"
    assert set(shown["calibration"]) == {"nll", "accuracy", "brier", "ece"}


def test_a_heads_rate_shrinks_with_its_features_unless_it_was_asked_for() -> None:
    """A head on features of mean squared norm 1,000 is trained a hundred times more gently; a fixed rate is kept."""
    features = np.full((20, 10), 10.0, dtype=np.float32)
    adapted = for_head(Candidate("fedlas", 0.2), features)
    assert adapted.scope == "head"
    assert adapted.learning_rate == pytest.approx(0.002)
    assert for_head(Candidate("fedlas", 0.2, fixed_rate=True), features).learning_rate == 0.2
    assert for_head(Candidate("fedlas", 0.2), features / 100).learning_rate == 0.2
