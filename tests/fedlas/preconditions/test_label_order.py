"""Another order of the classes is found where the labels have one, named, and not seen where they have not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fedlas.preconditions.label_order import label_order
from tests.helpers.matches import examined, gaussian_answers

NAMES = ["ant", "bee", "cow", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]


@pytest.mark.parametrize(
    "world",
    [
        {"num_classes": 2, "num_rows": 200, "apart": 0.1},
        {"num_classes": 2, "num_rows": 600, "apart": 0.3, "priors": [0.92, 0.08]},
        {"num_classes": 2, "num_rows": 600, "apart": 0.3, "moved": 2.0},
        {"num_classes": 2, "num_rows": 400, "apart": 0.3, "groups": 5},
        {"num_classes": 4, "num_rows": 400, "apart": 0.3, "groups": 30},
        {"num_classes": 5, "num_rows": 500, "apart": 0.5, "moved": 2.0},
        {"num_classes": 10, "num_rows": 300, "apart": 0.1},
        {"num_classes": 10, "num_rows": 1000, "apart": 0.4, "priors": [0.55, *[0.05] * 9]},
        {"num_classes": 100, "num_rows": 1500, "apart": 0.6},
    ],
)
def test_a_right_order_is_never_doubted(world: dict[str, Any]) -> None:
    """Poor, rare, shifted and grouped classes: 30 draws of each have no warning."""
    for seed in range(30):
        logits, targets, groups = gaussian_answers(np.random.default_rng(seed), **world)
        assert label_order(examined(logits, targets, groups=groups)) == []


def test_a_threshold_in_the_wrong_place_is_no_other_order() -> None:
    """A model that calls nearly all rows positive, of which 8 % are, is mostly wrong, but no order mends it."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(0), 2, 1000, apart=0.3, priors=[0.92, 0.08])
    logits[:, 1] += 5
    assert (logits.argmax(1) == targets).mean() < 0.3
    assert label_order(examined(logits, targets)) == []


@pytest.mark.parametrize("answer", [0, 1])
def test_one_answer_for_all_rows_is_no_other_order(answer: int) -> None:
    """Constant answers are right on as many rows as their class has, and tell nothing of an order."""
    targets = (np.random.default_rng(0).random(500) < 0.8).astype(np.int64)
    assert label_order(examined(np.tile(np.eye(2)[answer] * 9, (500, 1)), targets)) == []


@pytest.mark.parametrize("seed", range(5))
def test_two_exchanged_of_ten_are_certain_and_named(seed: int) -> None:
    """Both names, both accuracies and the order to send are in the notice."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(seed), 10, 1500, apart=1.2)
    order = np.array([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])
    (notice,) = label_order(examined(logits[:, order], targets, class_names=NAMES, matched_by="name"))
    assert (notice.code, notice.severity) == ("label_order", "error")
    assert notice.evidence["mapping"] == {"dog": "fox", "fox": "dog"}
    assert notice.evidence["model_order"] == notice.evidence["dataset_order"] == NAMES
    assert notice.evidence["likely_order"] == [NAMES[i] for i in order]
    assert notice.evidence["accuracy_as_mapped"] == pytest.approx((logits.argmax(1) == targets).mean(), abs=1e-6)
    assert notice.evidence["accuracy_as_is"] == pytest.approx((logits[:, order].argmax(1) == targets).mean(), abs=1e-6)
    assert "label 'dog' is the model's 'fox'" in notice.message
    assert "ant,bee,cow,fox,eel,dog" in notice.message


def test_sorted_names_for_a_model_without() -> None:
    """Where only the dataset has names, the sentence says that their order was taken for the model's."""
    order = np.random.default_rng(4).permutation(10)
    logits, targets, _ = gaussian_answers(np.random.default_rng(1), 10, 500)
    (notice,) = label_order(examined(logits[:, order], targets, class_names=NAMES))
    assert notice.severity == "error"
    assert notice.evidence["likely_order"] == [NAMES[i] for i in order]
    assert "no names of its classes" in notice.message


@pytest.mark.parametrize("rows", [60, 600])
def test_two_classes_the_other_way_round(rows: int) -> None:
    """Few rows are enough where the model is good."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(2), 2, rows, apart=1.5)
    (notice,) = label_order(examined(logits[:, ::-1], targets, class_names=["no", "yes"]))
    assert notice.severity == "error"
    assert notice.evidence["mapping"] == {"no": "yes", "yes": "no"}


def test_a_rare_class_that_is_never_answered_is_told_by_its_scores() -> None:
    """A model that nearly never answers the 8 % positives is seen to be the other way round."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(7), 2, 800, apart=0.6, priors=[0.92, 0.08])
    logits[:, 1] -= 3
    (notice,) = label_order(examined(logits[:, ::-1], targets))
    assert notice.code == "label_order"


def test_a_poor_model_in_the_wrong_order_ends_a_job_too() -> None:
    """40 % accuracy among ten classes: that something is wrong is certain, that it is the order is not."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(3), 10, 1000, apart=0.45)
    assert 0.3 < (logits.argmax(1) == targets).mean() < 0.45
    (notice,) = label_order(examined(np.roll(logits, 3, axis=1), targets, class_names=NAMES))
    assert (notice.code, notice.severity) == ("label_order", "error")
    assert "Or the inputs are wrong" in notice.message


def test_labels_from_one() -> None:
    """Labels 1 to 9 of ten classes, each one too large, are distinguished from any other order."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(5), 10, 900)
    kept = targets < 9
    (notice,) = label_order(examined(logits[kept], targets[kept] + 1, class_names=NAMES, numbered=True))
    assert (notice.code, notice.severity) == ("labels_from_one", "error")
    assert notice.evidence["mapping"] == {str(i + 1): NAMES[i] for i in range(9)}
    assert "Subtract 1" in notice.message


def test_numbers_in_another_order_cannot_be_mended_by_names() -> None:
    """Integer labels are the model's numbers whatever its names are, so other numbers are asked for."""
    order = np.random.default_rng(6).permutation(10)
    logits, targets, _ = gaussian_answers(np.random.default_rng(6), 10, 500)
    (notice,) = label_order(examined(logits[:, order], targets, class_names=NAMES, numbered=True))
    outputs = {str(order[j]): NAMES[j] for j in range(10) if order[j] != j}
    assert notice.evidence["mapping"] == dict(sorted(outputs.items(), key=lambda pair: int(pair[0])))
    assert "labels in the model's numbering" in notice.message


def test_some_classes_only() -> None:
    """Four of a hundred classes have rows, and other outputs answer them."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(8), 100, 8000, apart=1.5)
    kept = targets < 4
    (notice,) = label_order(examined(np.roll(logits[kept], 20, axis=1), targets[kept]))
    assert notice.severity == "error"
    assert notice.evidence["mapping"] == {str(i): str(i + 20) for i in range(4)}


@pytest.mark.parametrize(("groups", "severity"), [(4, "warning"), (12, "warning"), (200, "error")])
def test_few_groups_make_nothing_certain(groups: int, severity: str) -> None:
    """Rows of a group may all be answered alike, so that a few groups warn and many fail."""
    logits, targets, ids = gaussian_answers(np.random.default_rng(9), 3, 1500, apart=1.5, groups=groups)
    (notice,) = label_order(examined(logits[:, [1, 0, 2]], targets, groups=ids))
    assert (notice.code, notice.severity) == ("label_order", severity)


def test_a_hundred_thousand_rows_of_a_hundred_classes_take_a_second() -> None:
    """Beyond 50,000 rows a sample is read."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(10), 100, 100_000)
    match = examined(logits, targets)
    began = time.process_time()
    assert label_order(match) == []
    assert time.process_time() - began < 3
