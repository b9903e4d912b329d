"""What is made of trials together: averages that share a body, whole averages, and one network taught by them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from fedlas.calibrators import TemperatureScaling, VectorScaling
from fedlas.race import distillation
from fedlas.race.candidates import Candidate
from fedlas.race.distillation import _blended, distil
from fedlas.race.ensemble import Ensemble, log_mean
from fedlas.race.ensembling import MOST_MEMBERS, select_members
from fedlas.race.race import run_race
from fedlas.race.results import CandidateResult, Finalist, RaceResult
from fedlas.race.scoring import row_nll
from fedlas.race.selection import CalibratorSelector
from fedlas.training.fit import predict_logits
from fedlas.training.loop import TrainConfig
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier

WHOLE = (
    Candidate("fedlas", 0.2, alpha=0.2, beta=4.0, momentum=0.95, scope="all"),
    Candidate("fedlas_plus", 0.2, alpha=0.1, beta=0.5, momentum=0.95, margin=6.0, scope="all"),
    Candidate("label_smoothing", 0.2, alpha=0.05, scope="all"),
)
HEADS = tuple(Candidate("cross_entropy", rate, epochs=4, scope="head") for rate in (0.1, 0.4))
PLAIN = ("temperature",)


def run(candidates: tuple[Candidate, ...], **options: Any) -> RaceResult:
    train, calibration, _ = noisy_digits()
    settings: dict[str, Any] = {"budget_seconds": 600, "calibrators": PLAIN, **options}
    return run_race(overconfident_classifier(), train=train, calibration=calibration, candidates=candidates, **settings)


@cache
def whole_race() -> RaceResult:
    return run(WHOLE, max_cost_factor=5)


def finalist(held_out: np.ndarray, name: str = "x") -> Finalist:
    return Finalist(
        SmallClassifier(4, 3),
        TemperatureScaling(),
        CandidateResult(name, "cross_entropy", {}, "all", "finished"),
        held_out,
        np.zeros((len(held_out), 4), np.float32),
    )


def test_a_dear_average_needs_leave() -> None:
    """With a cost factor of 5 whole networks are averaged as one; it costs as many networks as it has members."""
    result = whole_race()
    (average,) = [c for c in result.candidates if c.method == "ensemble"]
    assert average.hyperparameters["cost_factor"] == len(average.hyperparameters["members"]) >= 2
    assert average.scope == "all"
    assert result.trained is not None
    assert isinstance(result.trained.classifier, Ensemble)
    assert result.trained.cost_factor == average.hyperparameters["cost_factor"]
    singles = [c.calibration["nll"] for c in result.candidates if c.method != "ensemble" and c.calibration]
    assert average.calibration is not None
    assert average.calibration["nll"] < min(singles), "the average beats each of its members"


def test_an_average_answers_for_new_rows_as_its_members_do() -> None:
    """The finalist's probabilities are the calibrated mean of what its members say, and beat each of them on tests."""
    result, (*_, (inputs, targets)) = whole_race(), noisy_digits()
    assert result.trained is not None
    network = result.trained.classifier
    assert isinstance(network, Ensemble)
    logits = [predict_logits(one, inputs)[0] for one in network.networks]
    parts = [calibrator(one) for calibrator, one in zip(network.calibrators, logits, strict=True)]
    expected = torch.from_numpy(result.trained.calibrator(log_mean(parts))).softmax(dim=1).numpy()
    found = result.trained.probs(inputs)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    own = [row_nll(part, targets).mean() for part in parts]
    assert row_nll(np.log(found), targets).mean() < min(own)


def test_without_leave_one_network_is_taught() -> None:
    """With a cost factor of 1.5 nothing served costs more than one network: an average teaches one instead."""
    result = run(WHOLE, max_cost_factor=1.5)
    (student,) = [c for c in result.candidates if c.method == "distilled"]
    assert len(student.hyperparameters["teacher"]) >= 2
    assert not [c for c in result.candidates if c.method == "ensemble"]
    assert student.calibration is not None
    assert result.candidates[0].calibration is not None
    assert student.calibration["nll"] < result.candidates[0].calibration["nll"]
    assert result.trained is not None
    assert not isinstance(result.trained.classifier, Ensemble)
    assert result.trained.cost_factor == 1.0


def test_a_teacher_has_seen_no_labels_but_for_its_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where richer calibrators are chosen for the finalists the teacher's members still have temperatures alone."""
    seen: list[Finalist] = []
    teach = distillation.distilled

    def watched(context: Any, teacher: Finalist, *others: Any) -> Finalist:
        seen.append(teacher)
        return teach(context, teacher, *others)

    monkeypatch.setattr("fedlas.race.ensembling.distilled", watched)
    result = run(WHOLE, calibrators=("temperature", "structured_matrix"))
    assert {c.calibrator.name for c in result.candidates if c.calibrator} - {"temperature"}, "richer ones do compete"
    (teacher,) = seen
    assert isinstance(teacher.classifier, Ensemble)
    assert {type(calibrator) for calibrator in teacher.classifier.calibrators} == {TemperatureScaling}


def test_heads_become_one_cheap_network() -> None:
    """Averaged heads share the body of the uploaded network and cost less than half a network more."""
    result = run(HEADS)
    averages = [c for c in result.candidates if c.method == "ensemble"]
    assert len(averages) == 1
    members, cost = (averages[0].hyperparameters[key] for key in ("members", "cost_factor"))
    assert averages[0].scope == "head"
    # 64·32 multiplications in the body, 32·10 in each head.
    assert cost == pytest.approx(1 + (len(members) - 1) * 320 / 2368, abs=1e-3)
    assert cost < 1.5
    assert not [c for c in result.candidates if c.method == "distilled"], "no whole network could teach"


@pytest.mark.parametrize("max_cost_factor", [1.5, 5.0])
def test_combining_can_be_switched_off(max_cost_factor: float) -> None:
    """With `combine=False` only candidates are named."""
    result = run(WHOLE[:2], combine=False, max_cost_factor=max_cost_factor)
    assert {c.method for c in result.candidates} == {"temperature", "fedlas", "fedlas_plus"}


def test_members_are_added_while_the_average_gets_better() -> None:
    """The best comes first, each next one lowers the NLL most, and no candidate left out would lower it further."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 1000)
    truth = 1.5 * np.eye(3)[targets]
    noisy = [finalist(truth + rng.normal(size=truth.shape), str(i)) for i in range(5)]
    rivals = [finalist(-3 * truth, "useless"), *noisy]
    selector = CalibratorSelector(targets, PLAIN, False)
    chosen = select_members(rivals, selector, most=MOST_MEMBERS)

    def nll(members: list[Finalist]) -> float:
        return float(row_nll(log_mean([member.held_out for member in members]), targets).mean())

    assert 3 <= len(chosen) <= MOST_MEMBERS
    assert len(set(map(id, chosen))) == len(chosen)
    for size in range(1, len(chosen) + 1):
        before, rest = chosen[: size - 1], [one for one in rivals if one not in chosen[: size - 1]]
        assert nll(chosen[:size]) == min(nll([*before, one]) for one in rest)
        assert size == 1 or nll(chosen[:size]) < nll(before)
    assert all(nll([*chosen, one]) >= nll(chosen) for one in rivals if one not in chosen)
    assert select_members(rivals, selector, most=2) == chosen[:2]
    assert select_members([noisy[0], finalist(noisy[0].held_out, "twin")], selector, most=5) == [noisy[0]]
    assert select_members([], selector, most=5) == []


def test_a_student_learns_what_its_teacher_says() -> None:
    """After its distillation the student is far closer to the teacher than it was; the teacher is left as it is."""
    (inputs, _), (new, _), _ = noisy_digits()
    teacher = Ensemble([overconfident_classifier() for _ in range(2)], [VectorScaling(), TemperatureScaling(4.0)])
    teacher.calibrators = (TemperatureScaling(6.0), TemperatureScaling(4.0))
    pupil = overconfident_classifier()
    wanted = torch.from_numpy(predict_logits(teacher, new)[0]).softmax(1)

    def distance() -> float:
        said = torch.from_numpy(predict_logits(pupil, new)[0]).log_softmax(1)
        return float((wanted * (wanted.log() - said)).sum(1).mean())

    before = distance()
    config = TrainConfig(epochs=8, learning_rate=0.05)
    epochs: list[int] = []
    device = torch.device("cpu")
    assert distil(pupil, teacher, inputs, config, device=device, on_epoch=lambda e: epochs.append(e.epoch))
    assert epochs == list(range(1, 9))
    assert distance() < 0.25 * before
    np.testing.assert_array_equal(wanted, torch.from_numpy(predict_logits(teacher, new)[0]).softmax(1))
    wild = TrainConfig(epochs=3, learning_rate=1e30)
    assert not distil(pupil, teacher, inputs, wild, device=device, on_epoch=lambda _: None), "divergence is said"


def test_blends_lie_between_two_rows_of_the_batch() -> None:
    """Even rows stay, odd ones become convex blends with the same partner and share in every input."""
    x = torch.arange(8.0)[:, None].repeat(1, 3)
    first, second = _blended([x, 10 * x], torch.Generator().manual_seed(0))
    torch.testing.assert_close(first[::2], x[::2])
    torch.testing.assert_close(second, 10 * first)
    assert first.min() >= 0
    assert first.max() <= 7
    assert (first[1::2] != x[1::2]).any()
