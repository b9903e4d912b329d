"""Candidates: which of them a method races, in which order, and which settings the recipe refuses."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from fedlas.importers.onnx.train.classifier import NetworkKind
from fedlas.losses import (
    ACLSLoss,
    CrossEntropyLoss,
    FedLASLoss,
    FedLASPlusLoss,
    FocalLoss,
    LabelSmoothingLoss,
    MbLSLoss,
)
from fedlas.race.candidates import (
    DEFAULTS,
    HEAD_SHARE,
    METHODS,
    TRAINED,
    Candidate,
    check_hyperparameters,
    make_candidates,
    make_loss,
)

LOSSES: dict[str, type[nn.Module]] = {
    "fedlas": FedLASLoss,
    "fedlas_plus": FedLASPlusLoss,
    "label_smoothing": LabelSmoothingLoss,
    "mbls": MbLSLoss,
    "acls": ACLSLoss,
    "focal": FocalLoss,
    "cross_entropy": CrossEntropyLoss,
}


KINDS: tuple[NetworkKind, ...] = get_args(NetworkKind)


def test_small_transformers_race_both_rates() -> None:
    """FedLAS at 1e-3 and at 1e-4; a given rate overrules both."""
    assert {c.learning_rate for c in make_candidates("fedlas", {}, kind="small_transformer")} == {1e-3, 1e-4}
    given = make_candidates("auto", {"learning_rate": 3e-4, "epochs": 4}, kind="small_transformer")
    assert [(c.method, c.learning_rate, c.epochs) for c in given] == [
        ("cross_entropy", 3e-4, 4),
        ("fedlas", 3e-4, 4),
        ("label_smoothing", 3e-4, 4),
        ("fedlas_plus", 3e-4, 4),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_auto_races_fedlas_beside_its_rivals(kind: NetworkKind) -> None:
    """One of the first two is FedLAS or FedLAS+; cross-entropy and label smoothing take part; none occurs twice."""
    candidates = make_candidates("auto", {}, kind=kind)
    assert {c.method for c in candidates[:2]} & {"fedlas", "fedlas_plus"}
    assert {c.method for c in candidates} - {"fedlas"} == {"fedlas_plus", "label_smoothing", "cross_entropy"}
    assert len(candidates) == len(set(candidates))
    assert {(c.scope, c.epochs) for c in candidates} == {("auto", None)}, "the race finds them"


@pytest.mark.parametrize("number", [0, 1, 3, 16])
def test_at_most_so_many_candidates(number: int) -> None:
    """`max_candidates` keeps the first of the line."""
    assert make_candidates("auto", {}, max_candidates=number) == make_candidates("auto", {})[:number]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", TRAINED)
def test_a_method_races_a_few_of_its_own(method: str, kind: NetworkKind) -> None:
    """A named method has 2 to 6 candidates, trained as `auto` trains on this kind of network."""
    candidates = make_candidates(method, {}, kind=kind)
    assert 2 <= len(candidates) <= 6
    assert {c.method for c in candidates} == {method}
    assert {c.optimizer for c in candidates} == {c.optimizer for c in make_candidates("auto", {}, kind=kind)}


def test_fixed_numbers_leave_no_doubles() -> None:
    """Everything fixed leaves one FedLAS candidate with exactly these settings."""
    fixed: dict[str, float | str] = {"alpha": 0.3, "beta": 2, "momentum": 0.5, "scope": "head", "optimizer": "adamw"}
    fixed |= {"learning_rate": 0.03, "weight_decay": 0.1, "epochs": 2, "batch_size": 32}
    (only,) = make_candidates("fedlas", fixed)
    assert only.hyperparameters() == {name: value for name, value in fixed.items() if name != "scope"}
    assert only.scope == "head"


def test_a_fixed_number_holds_where_the_loss_has_it() -> None:
    """In `auto` a fixed alpha reaches every smoothing loss and leaves cross-entropy as it is."""
    fixed = {"alpha": 0.3, "learning_rate": 0.01, "weight_decay": 0, "epochs": 5, "beta": "auto"}
    candidates = make_candidates("auto", fixed)
    found = {c.method: c.alpha for c in candidates}
    assert len(candidates) == len(found), "what differed in what is fixed only has become one"
    assert found == {"fedlas_plus": 0.3, "cross_entropy": None, "label_smoothing": 0.3}
    assert {(c.learning_rate, c.weight_decay, c.epochs) for c in candidates} == {(0.01, 0, 5)}


@pytest.mark.parametrize(("kind", "rate"), [("other", 1e-2), ("convolutional", 1e-3), ("transformer", 1e-4)])
def test_a_fixed_optimizer_brings_its_own_rate(kind: NetworkKind, rate: float) -> None:
    """AdamW has a rate for each kind of network; the rate of SGD is a share of the edge on transformers as well."""
    adamw = make_candidates("auto", {"optimizer": "adamw"}, kind=kind)
    assert {(c.optimizer, c.learning_rate) for c in adamw} == {("adamw", rate)}
    sgd = make_candidates("auto", {"optimizer": "sgd"}, kind=kind)
    assert {(c.optimizer, c.learning_rate) for c in sgd} == {("sgd", None)}
    if kind == "transformer":
        assert {c.edge_share for c in sgd} == {0.25}


@pytest.mark.parametrize("scope", ["all", "head"])
def test_a_fixed_scope_is_everybodys(scope: str) -> None:
    """With a fixed scope every candidate trains that scope, and none occurs twice."""
    candidates = make_candidates("auto", {"scope": scope})
    assert {c.scope for c in candidates} == {scope}
    assert 2 < len(set(candidates)) == len(candidates) <= len(make_candidates("auto", {}))


def test_a_head_is_trained_as_a_linear_map() -> None:
    """Heads of transformers have SGD at a share of their own edge, unless an optimiser or a rate is fixed."""
    heads = make_candidates("auto", {"scope": "head"}, kind="transformer")
    assert {(c.optimizer, c.learning_rate, c.edge_share) for c in heads} == {("sgd", None, HEAD_SHARE)}
    fixed = make_candidates("auto", {"learning_rate": 0.003, "optimizer": "adamw"})
    assert {(c.optimizer, c.learning_rate, c.rate_is_fixed) for c in fixed} == {("adamw", 0.003, True)}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_own_loss(method: str) -> None:
    """Each method's candidates make their loss with their settings; those that train nothing have no candidates."""
    candidates = make_candidates(method, {}, max_candidates=100)
    assert bool(candidates) == (method not in ("post_hoc", "temperature"))
    for candidate in candidates:
        assert method in ("auto", candidate.method)
        loss = make_loss(candidate, 10)
        assert type(loss) is LOSSES[candidate.method]
        for name in DEFAULTS[candidate.method]:
            if hasattr(loss, name):
                assert getattr(loss, name) == getattr(candidate, name)


def test_the_gate_starts_from_the_seed() -> None:
    """Two losses of one candidate and seed are equal, and the caller's random state is kept."""
    candidate = make_candidates("fedlas", {})[0]
    before = torch.random.get_rng_state()
    first, second, other = (make_loss(candidate, 10, seed=seed) for seed in (1, 1, 2))
    weights = [next(loss.parameters()) for loss in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.6},
        {"alpha": 0},
        {"alpha": True},
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"learning_rate": "fast"},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"momentum": 1.5},
        {"margin": -1},
        {"scope": "body"},
        {"optimizer": "lion"},
        {"weight_decay": -0.1},
        {"gamma": 3},
    ],
)
def test_wrong_hyperparameters_are_named(wrong: dict[str, Any]) -> None:
    """A value out of range or an unknown name is a ValueError that names it, from the recipe too."""
    (name,) = wrong
    for refuse in (check_hyperparameters, lambda given: make_candidates("auto", given)):
        with pytest.raises(ValueError, match=name):
            refuse(wrong)


def test_an_unknown_method_is_named() -> None:
    """The message says what there is."""
    with pytest.raises(ValueError, match=r"method.*fedlas_plus.*'magic'"):
        make_candidates("magic", {})


def test_names_tell_what_differs() -> None:
    """A name shows the share of the edge until the rate is known, and only what most candidates do not have."""
    assert Candidate("fedlas", alpha=0.05, edge_share=0.25, scope="head").name == "fedlas α=0.05 lr=0.25×edge head"
    assert Candidate("cross_entropy", 0.08132, scope="all").name == "cross_entropy lr=0.0813"
    decayed = Candidate("cross_entropy", 1e-4, optimizer="adamw", weight_decay=0.02, usual_epochs=4)
    assert decayed.name == "cross_entropy lr=0.0001 wd=0.02 adamw 4 epochs"
    assert Candidate("cross_entropy", 0.1, epochs=10, usual_epochs=25).name == "cross_entropy lr=0.1"
