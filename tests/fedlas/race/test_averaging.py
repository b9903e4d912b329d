"""An average of networks as one classifier: outputs, members that it refuses, finalists, and what it may cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skl2onnx import to_onnx
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fedlas.calibrators import Calibrator, Identity, LogPool, TemperatureScaling, VectorScaling, softmax
from fedlas.calibrators.feature_map import FeatureScaling
from fedlas.classifier import Classifier
from fedlas.errors import BadDataset
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.race.averaging import Ensemble, average, cost_limit, count_multiply_adds
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.context import SplitOutputs
from fedlas.race.results import CandidateResult, CrossFitted, Finalist
from fedlas.race.trainer import copy_head
from fedlas.training.fit import predict_logits
from tests.helpers.networks import Bert, Cnn, Inputs, export, images, mlp, table, texts
from tests.helpers.races import HOT, HOT_PLUS, PLAIN, nll, race
from tests.helpers.small_classifier import SmallClassifier, noisy_digits


def networks(number: int = 3, *, two_inputs: bool = False) -> list[SmallClassifier]:
    return [SmallClassifier(6, 4, feature_dim=8, seed=seed, two_inputs=two_inputs).eval() for seed in range(number)]


def inputs(number: int = 20) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(number, 6)).astype(np.float32))


def heads(number: int = 3) -> list[SmallClassifier]:
    """One body with different heads."""
    base = networks(1)[0]
    found = [base]
    for seed in range(1, number):
        other = copy_head(base)
        assert isinstance(other, SmallClassifier)
        other.out.load_state_dict(SmallClassifier(6, 4, feature_dim=8, seed=seed).out.state_dict())
        found.append(other)
    return found


def different_calibrators() -> list[Calibrator]:
    rng = np.random.default_rng(1)
    vector = VectorScaling().fit(rng.normal(size=(200, 4)), rng.integers(0, 4, 200))
    return [TemperatureScaling(2.0), vector, FeatureScaling(1.5, rng.normal(size=(8, 4)), rng.normal(size=4))]


def weighed(calibrators: Sequence[Calibrator], weights: Sequence[float]) -> list[Calibrator]:
    return [LogPool([one], [weight]) for one, weight in zip(calibrators, weights, strict=True)]


def test_it_computes_what_its_members_say() -> None:
    """Logits are the weighted sum of the members' log-probabilities after their calibrators, one with features."""
    members, calibrators, x = networks(), different_calibrators(), inputs()
    weights = (0.2, 0.5, 0.4)
    with torch.no_grad():
        logits, features = Ensemble(members, weighed(calibrators, weights))(x)
        answers = [[part.double().numpy() for part in member(x)] for member in members]
    scaled = calibrators[2]
    assert isinstance(scaled, FeatureScaling)
    by_hand = [
        softmax(answers[0][0] / 2.0),
        softmax(calibrators[1](answers[1][0])),
        softmax(answers[2][0] / 1.5 + answers[2][1] @ scaled.matrix + scaled.offset),
    ]
    product = np.prod([p**w for p, w in zip(by_hand, weights, strict=True)], axis=0)
    np.testing.assert_allclose(logits.softmax(1), product / product.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(features, answers[0][1], atol=1e-6)
    assert logits.dtype == torch.float32


def test_a_shared_body_changes_nothing_but_the_work() -> None:
    """Members that differ in their heads alone give the same logits with the body computed once and three times."""
    members, calibrators, x = heads(), weighed(different_calibrators(), [0.6, 0.1, 0.3]), inputs()
    calls: list[int] = []
    for member in members:
        member.hidden.register_forward_hook(lambda *_: calls.append(1))
    apart = Ensemble(members, calibrators)(x)[0]
    assert len(calls) == 3
    calls.clear()
    torch.testing.assert_close(Ensemble(members, calibrators, shares_body=True)(x)[0], apart)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("scopes", "needed"),
    [(["head"], 1), (["head", "head"], 1), (["all"], 2), (["all", "head"], 2), (["all", "all"], 3)],
)
def test_how_many_networks_an_answer_needs(scopes: list[str], needed: int) -> None:
    """The upload and heads on its body are one network, and each network that was trained whole is one more."""
    rng, targets = np.random.default_rng(0), np.arange(600) % 4
    signal = 2.0 * np.eye(4)[targets]
    held_out = [signal + rng.normal(size=(600, 4)) for _ in range(1 + len(scopes))]
    bodies = itertools.chain(heads(3)[1:], networks(3)[1:])
    members = [(heads(1)[0], "none"), *((next(bodies), scope) for scope in scopes)]
    line = [replace(finalist(one, scope), held_out=h) for (one, scope), h in zip(members, held_out, strict=True)]
    selector = CalibratorSelector(targets, ("temperature",), False)
    found = average(line[0], [CrossFitted(Identity(), held_out[0])], line[1:], selector)
    assert found is not None
    assert found.networks == needed


def test_batches_and_several_inputs() -> None:
    """Rows get the same answer in any batch, and members with two inputs take both."""
    network = Ensemble(networks(2, two_inputs=True), [Identity(), TemperatureScaling(3.0)])
    left, right = inputs().split(3, dim=1)
    assert network.input_names == ("left", "right")
    whole, _ = predict_logits(network, [left, right])
    parts, _ = predict_logits(network, [left, right], batch_size=3)
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    assert whole.shape == (20, 4)


def test_it_is_not_trained() -> None:
    """No gradient reaches the members, and there is no head to train."""
    network = Ensemble(networks(2), [Identity(), Identity()])
    assert not network(inputs())[0].requires_grad
    assert network.head_parameters() == []
    with pytest.raises(TypeError, match="no head"):
        network.head(torch.zeros(1, 8))


@pytest.mark.parametrize(("members", "calibrators"), [(1, 1), (2, 1), (3, 2)])
def test_members_and_calibrators_must_match(members: int, calibrators: int) -> None:
    """One member is no average, and each needs its own calibrator."""
    with pytest.raises(ValueError, match=f"got {members} and {calibrators}"):
        Ensemble(networks(members), [Identity()] * calibrators)


def test_the_average_joins_upload_and_refit() -> None:
    """With a cost factor of 2 the pool of both is named: its logits are the weighted sum of what both say."""
    *_, test = noisy_digits()
    slow = replace(HOT, learning_rate=0.1)
    result = race(slow, max_cost_factor=2.0)
    average = result.finalists["average"]
    network = average.classifier
    assert isinstance(network, Ensemble)
    assert average.networks == 2
    assert network.networks[0] is result.post_hoc.classifier
    assert "trained" in result.finalists
    logits = [predict_logits(one, test[0])[0] for one in network.networks]
    weights = average.result.hyperparameters["weights"]
    pools = [pool for pool in network.calibrators if isinstance(pool, LogPool)]
    assert [pool.weights.sum() for pool in pools] == pytest.approx(weights, abs=1e-4)
    parts = [
        w * np.log(softmax(member(one)))
        for pool, one in zip(pools, logits, strict=True)
        for member, w in zip(pool.members, pool.weights, strict=True)
    ]
    np.testing.assert_allclose(average.probs(test[0]), softmax(np.sum(parts, axis=0)), atol=1e-5)
    assert nll(average.probs(test[0]), test[1]) < nll(result.post_hoc.probs(test[0]), test[1])


@pytest.mark.parametrize(("gentle", "served"), [(True, ["post_hoc"]), (False, ["post_hoc", "trained"])])
@pytest.mark.parametrize("cost", [1.0, 2.0])
def test_what_is_served_follows_the_score(gentle: bool, served: list[str], cost: float) -> None:
    """A network, or an average, is a finalist if its NLL out of fold (1.00; 0.66) is lower than the upload's (0.89)."""
    assert list(race(replace(HOT, learning_rate=0.05) if gentle else PLAIN, max_cost_factor=cost).finalists) == served


def test_two_refits_are_averaged_where_three_networks_are_paid_for() -> None:
    """With a cost factor of 3 the two best candidates are trained on all rows."""
    average = race(HOT, HOT_PLUS, max_cost_factor=3.0).finalists["average"]
    assert {HOT.name, HOT_PLUS.name} <= set(average.result.hyperparameters["members"])
    assert average.networks == len(average.result.hyperparameters["members"])


def finalist(network: Classifier, scope: str) -> Finalist:
    result = CandidateResult("x", "cross_entropy", {}, scope, "finished")
    return Finalist(network, TemperatureScaling(2.0), result, np.zeros((1, 3)), np.zeros((1, 4), np.float32))


def moved_head(base: Classifier, seed: int) -> Classifier:
    network, generator = copy_head(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.head_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return network


def test_heads_say_what_the_whole_network_says_bit_by_bit() -> None:
    """Heads, and averages of heads, are computed from the features: with the same bits as from the rows."""
    base = SmallClassifier(4, 3).eval()
    heads = [moved_head(base, 1), moved_head(base, 2)]
    rows = [np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)]
    outputs = SplitOutputs(base, rows, split="test", device="cpu")
    for network in (base, heads[0], Ensemble([base, *heads], [Identity()] * 3, shares_body=True)):
        found = outputs.of(finalist(network, "none" if network is base else "head"))
        for array, expected in zip(found, predict_logits(network, rows, device="cpu"), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_answers_that_are_no_numbers_name_the_split() -> None:
    """A network that answers NaN is refused before anything is computed from it."""
    base = SmallClassifier(4, 3).eval()
    rows = np.full((10, 4), np.nan, np.float32)
    with pytest.raises(BadDataset, match="split 'guarantee'"):
        SplitOutputs(base, [rows], split="guarantee", device="cpu")


def imported(network: nn.Module, rows: Inputs, folder: Path) -> GraphClassifier:
    return load_onnx(export(network.eval(), rows, folder / "m.onnx"))


def perceptron(inputs: int, *widths: int) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise([inputs, *widths]) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Recurrent(nn.Module):
    """Embedded tokens, one recurrent layer, a linear head on its last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(50, 8), kind(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.layer(self.embedding(tokens))
        return self.head(states[:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("asked", [1.0, 1.5, 10.0])
def test_a_number_is_taken_as_it_is(asked: float, tmp_path: Path) -> None:
    """Whoever asks for a limit gets it, however small the network is."""
    assert cost_limit(asked, imported(mlp(), table(2), tmp_path)) == asked


@pytest.mark.parametrize(
    ("network", "rows"),
    [(perceptron(21, 128, 128, 10), (torch.randn(2, 21),)), (Cnn(), images(2)), (Bert(), texts(2))],
    ids=["perceptron", "convolutional", "transformer"],
)
def test_small_networks_may_be_averaged(network: nn.Module, rows: Inputs, tmp_path: Path) -> None:
    """Three networks of any kind where a row is cheap."""
    assert cost_limit("auto", imported(network, rows, tmp_path)) == 3.0


@pytest.mark.parametrize(
    ("network", "rows"),
    [
        (nn.Sequential(nn.Conv2d(3, 64, 7), nn.Conv2d(64, 16, 3), nn.Flatten(), nn.Linear(9216, 3)), images(2, 32)),
        (nn.Sequential(nn.Linear(8, 4096), *(nn.Tanh() for _ in range(130)), nn.Linear(4096, 3)), (torch.ones(2, 8),)),
        (perceptron(8, 2048, 2048, 3), (torch.ones(2, 8),)),
    ],
    ids=["multiply-adds", "bytes of a row", "bytes of weights"],
)
def test_each_measure_alone_makes_a_network_large(network: nn.Module, rows: Inputs, tmp_path: Path) -> None:
    """12 million multiply-adds, 2.1 MB of tensors or 17 MB of weights leave no room for a second network."""
    assert cost_limit("auto", imported(network, rows, tmp_path)) == 1.0


def test_lengths_are_those_of_the_rows(tmp_path: Path) -> None:
    """A network whose rows may be of any length is small for short ones and large for long ones."""
    body = nn.Sequential(nn.Conv1d(1, 64, 9), nn.Conv1d(64, 64, 9), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    network, row = nn.Sequential(*body, nn.Linear(64, 3)).eval(), (torch.ones(2, 1, 64),)
    axes = {"x": {0: "N", 2: "length"}}
    classifier = load_onnx(export(network, row, tmp_path / "m.onnx", dynamic=False, dynamic_axes=axes))
    for length, expected in ((32, 3.0), (4096, 1.0)):
        assert cost_limit("auto", classifier, [np.zeros((5, 1, length), np.float32)]) == expected


def test_what_is_counted() -> None:
    """Multiply-adds of matrices, of recurrent layers step by step, and of attention's two products."""
    _, counted = count_multiply_adds(perceptron(6, 8, 4).eval(), torch.randn(5, 6))
    assert counted == 5 * (6 * 8 + 8 * 4)
    rows = torch.zeros(2, 7, dtype=torch.int64)
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3)):
        _, counted = count_multiply_adds(Recurrent(kind).eval(), rows)
        assert counted == 2 * (7 * gates * 16 * (8 + 16) + 16 * 3)
    query = torch.randn(2, 4, 16, 8)
    _, counted = count_multiply_adds(scaled_dot_product_attention, query, query, query)
    assert counted == 2 * (2 * 4 * 16 * 16 * 8)


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    """Counting changes neither its mode nor what it computes."""
    classifier = imported(Cnn(), images(2), tmp_path).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    cost_limit("auto", classifier)
    assert classifier.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_what_cannot_be_trained_is_not_averaged(tmp_path: Path) -> None:
    """A tree has no refit that an average could be made of."""
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    tree = DecisionTreeClassifier(max_depth=3).fit(rows, np.arange(60) % 3)
    path = tmp_path / "tree.onnx"
    path.write_bytes(to_onnx(tree, rows[:1], options={"zipmap": False}).SerializeToString())
    assert cost_limit("auto", load_onnx(path)) == 1.0
