"""The recipe: which candidates a method races, in which order, and which settings it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedlas.losses import (
    ACLSLoss,
    CrossEntropyLoss,
    FedLASLoss,
    FedLASPlusLoss,
    FocalLoss,
    LabelSmoothingLoss,
    MbLSLoss,
)
from fedlas.race.candidates import DEFAULTS, METHODS, Candidate, make_loss
from fedlas.race.recipe import check_hyperparameters, make_candidates

LOSSES: dict[str, type[nn.Module]] = {
    "fedlas": FedLASLoss,
    "fedlas_plus": FedLASPlusLoss,
    "label_smoothing": LabelSmoothingLoss,
    "mbls": MbLSLoss,
    "acls": ACLSLoss,
    "focal": FocalLoss,
    "cross_entropy": CrossEntropyLoss,
}


def settings(candidate: Candidate) -> tuple[str, float | None, float, str]:
    return candidate.method, candidate.alpha, candidate.edge_share, candidate.scope


def test_auto_races_fedlas_beside_its_rivals() -> None:
    """FedLAS+ leads, cross-entropy is among the first three, and heads, strengths and rates are all covered."""
    candidates = make_candidates("auto", {})
    assert [settings(c) for c in candidates[:4]] == [
        ("fedlas_plus", 0.1, 0.25, "all"),
        ("fedlas", 0.05, 0.25, "all"),
        ("cross_entropy", None, 0.25, "all"),
        ("fedlas", 0.05, 0.25, "head"),
    ]
    assert len(candidates) == len(set(candidates)) == 16
    assert {c.method for c in candidates} == {"fedlas", "fedlas_plus", "label_smoothing", "cross_entropy"}
    assert {c.alpha for c in candidates if c.method == "fedlas"} == {0.02, 0.05, 0.1}
    for scope in ("all", "head"):
        assert {"fedlas", "fedlas_plus", "cross_entropy"} <= {c.method for c in candidates if c.scope == scope}
    assert {c.edge_share for c in candidates} == {0.125, 0.25, 0.5}
    assert all(c.learning_rate is None and c.epochs is None for c in candidates), "the race finds them"


@pytest.mark.parametrize("number", [0, 1, 5, 16, 99])
def test_at_most_so_many_candidates(number: int) -> None:
    """`max_candidates` keeps the first of the line."""
    assert make_candidates("auto", {}, max_candidates=number) == make_candidates("auto", {})[:number]


def test_fresh_rows_put_the_gentle_candidates_first() -> None:
    """On rows the model has not seen FedLAS 0.02 and cross-entropy at the low rate lead; none is added or lost."""
    usual, fresh = make_candidates("auto", {}), make_candidates("auto", {}, fresh_rows=True)
    assert [settings(c) for c in fresh[:2]] == [("fedlas", 0.02, 0.125, "all"), ("cross_entropy", None, 0.125, "all")]
    assert [c for c in usual if c not in fresh[:2]] == fresh[2:]


def test_fixed_numbers_leave_no_doubles() -> None:
    """A fixed alpha, learning rate and scope leave one FedLAS candidate with exactly these settings."""
    fixed = {"alpha": 0.3, "learning_rate": 0.03, "epochs": 2, "batch_size": 32, "beta": 2, "scope": "head"}
    (only,) = make_candidates("fedlas", fixed)
    assert only.hyperparameters() == {
        "alpha": 0.3,
        "beta": 2,
        "momentum": 0.95,
        "optimizer": "sgd",
        "learning_rate": 0.03,
        "weight_decay": 0.001,
        "epochs": 2,
        "batch_size": 32,
    }
    assert only.scope == "head"


def test_a_fixed_number_holds_where_the_loss_has_it() -> None:
    """In `auto` a fixed alpha reaches every smoothing loss and leaves cross-entropy as it is."""
    candidates = make_candidates("auto", {"alpha": 0.3, "learning_rate": 0.01, "epochs": "auto"})
    found = {(c.method, c.scope): c.alpha for c in candidates}
    assert len(candidates) == len(found), "what differed in alpha and rate only has become one"
    assert {alpha for (method, _), alpha in found.items() if method != "cross_entropy"} == {0.3}
    assert {alpha for (method, _), alpha in found.items() if method == "cross_entropy"} == {None}
    assert {c.learning_rate for c in candidates} == {0.01}


@pytest.mark.parametrize("scope", ["all", "head"])
def test_a_fixed_scope_is_everybodys(scope: str) -> None:
    """With a fixed scope every candidate trains that scope, and none occurs twice."""
    candidates = make_candidates("auto", {"scope": scope})
    assert {c.scope for c in candidates} == {scope}
    assert len(set(candidates)) == len(candidates) > 8


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
