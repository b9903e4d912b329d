"""Rows that can tell little, or too much, are found; ordinary rows are left in peace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

from fedlas.data import SPLITS
from fedlas.data.duplicates import row_digests
from fedlas.preconditions.answers import softmax_twice
from fedlas.preconditions.class_rows import class_rows, conflicting_rows, leaking_column
from tests.helpers.matches import examined, gaussian_answers

Array = NDArray[Any]


def table(rows: int = 600, columns: int = 5, classes: int = 3, seed: int = 0) -> tuple[Array, Array, Array]:
    """Inputs, labels that they tell in part, and logits."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, columns)).astype(np.float32)
    logits = inputs @ rng.normal(size=(columns, classes))
    return inputs, (logits + rng.gumbel(size=logits.shape)).argmax(1), logits


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits, load_iris, load_wine])
def test_ordinary_tables_have_no_notice(load: Any) -> None:
    """Real tables, easy ones among them, neither leak nor conflict."""
    inputs, targets = load(return_X_y=True)
    assert class_rows(examined(np.eye(targets.max() + 1)[targets], targets, inputs=inputs.astype(np.float32))) == []


def test_so_few_rows_that_they_tell_nothing_end_a_job() -> None:
    """24 calibration rows leave ±20 points of accuracy open, and are too few; 25 are not."""
    inputs, targets, logits = table(rows=24, classes=2)
    (notice,) = class_rows(examined(logits, targets, inputs=inputs))
    assert (notice.code, notice.severity, notice.evidence["rows"]) == ("few_rows", "error", 24)
    assert "±20 points" in notice.message
    inputs, targets, logits = table(rows=25, classes=2)
    assert class_rows(examined(logits, targets, inputs=inputs)) == []


def test_a_split_without_a_class_is_named() -> None:
    """Each split that lacks a class is one notice, with the class."""
    inputs, targets, logits = table()
    splits = np.repeat([SPLITS.index(name) for name in ("calibration", "test")], 300).astype(np.int8)
    targets[300:][targets[300:] == 2] = 0
    (notice,) = class_rows(examined(logits, targets, inputs=inputs, splits=splits, class_names=["a", "b", "c"]))
    assert (notice.code, notice.severity) == ("class_not_met", "warning")
    assert notice.evidence == {"split": "test", "classes": ["c"], "missing": 1, "num_classes": 3}


def test_a_class_without_any_row_is_told_once() -> None:
    """Classes that a model has and the dataset lacks are not reported for each split again."""
    inputs, targets, _ = table(classes=2)
    splits = np.repeat([SPLITS.index(name) for name in ("calibration", "test")], 300).astype(np.int8)
    (notice,) = class_rows(examined(np.zeros((600, 5)), targets, inputs=inputs, splits=splits))
    assert notice.code == "class_not_met"
    assert (notice.evidence["split"], notice.evidence["classes"]) == (None, ["2", "3", "4"])


def test_conflicting_rows_bound_what_can_be_reached() -> None:
    """Copies of 180 of 600 rows with another label make 360 rows conflict; half of them can be right."""
    inputs, targets, logits = table()
    again = np.arange(180)
    inputs, logits = np.concatenate([inputs, inputs[again]]), np.concatenate([logits, logits[again]])
    targets = np.concatenate([targets, (targets[again] + 1) % 3])
    (notice,) = conflicting_rows(examined(logits, targets, inputs=inputs))
    assert (notice.code, notice.severity, notice.evidence["rows"]) == ("conflicting_duplicates", "warning", 360)
    assert notice.evidence["reachable_accuracy"] == pytest.approx(600 / 780, abs=1e-6)
    assert [0, 600] in notice.evidence["examples"]  # type: ignore[operator]


def test_equal_rows_with_equal_labels_do_not_conflict() -> None:
    """Duplicates alone are no conflict, and a coarse table conflicts by nature."""
    inputs, targets, logits = table(columns=3)
    twice = {"inputs": np.concatenate([inputs, inputs])}
    assert conflicting_rows(examined(np.tile(logits, (2, 1)), np.tile(targets, 2), **twice)) == []
    assert conflicting_rows(examined(logits, targets, inputs=np.round(inputs / 2))) == []


def test_digests_are_of_all_inputs() -> None:
    """Rows of images and text are equal where all their bytes are, and small numbers do not collide."""
    images = np.random.default_rng(0).integers(0, 2, (20_000, 3, 9, 9), np.uint8)
    words = np.array([f"word {i}" for i in range(20_000)])
    assert len(np.unique(row_digests([images]))) == 20_000
    assert len(np.unique(row_digests([words]))) == 20_000
    assert len(np.unique(row_digests([np.arange(300_000, dtype=np.float32).reshape(-1, 3)]))) == 100_000
    same = row_digests([np.zeros((3, 2)), np.array([1, 2, 1])])
    assert same[0] == same[2] != same[1]


def test_a_table_of_codes_that_was_sent_twice_conflicts() -> None:
    """A table of few values a column and hardly equal rows conflicts where a third comes again with the other label."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 5, (600, 12)).astype(np.float32), rng.integers(0, 2, 600)
    inputs, targets = np.concatenate([inputs, inputs[:200]]), np.concatenate([targets, 1 - targets[:200]])
    (notice,) = conflicting_rows(examined(np.eye(2)[targets], targets, inputs=inputs))
    assert notice.evidence["rows"] == 400


def test_a_copy_of_the_label_beside_a_good_column() -> None:
    """Where another column tells nearly as much, values that are one class each are a copy all the same."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 600)
    inputs = np.stack([np.where(rng.random(600) < 0.015, 1 - targets, targets), 7 - 3 * targets], 1).astype(np.float32)
    (notice,) = leaking_column(examined(np.eye(2)[targets], targets, inputs=inputs))
    assert notice.evidence["column"] == 1


@pytest.mark.parametrize("leak", ["label", "noisy", "relabelled"])
def test_a_column_made_from_the_label_is_named(leak: str) -> None:
    """The label as it stands, with a little noise, or under other numbers."""
    inputs, targets, logits = table()
    made = {
        "label": targets,
        "noisy": targets + 0.01 * np.random.default_rng(1).normal(size=600),
        "relabelled": np.array([7, 1, 4])[targets],
    }
    inputs[:, 3] = made[leak]
    (notice,) = leaking_column(examined(logits, targets, inputs=inputs, columns=list("abcde")))
    assert (notice.code, notice.severity, notice.evidence["column"]) == ("leaking_column", "warning", "d")
    assert "'d' alone" in notice.message


def test_a_task_that_many_columns_solve_is_easy() -> None:
    """Classes that lie far apart in every column are no leak."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 400)
    inputs = (10 * targets[:, None] + rng.normal(size=(400, 4))).astype(np.float32)
    assert leaking_column(examined(np.eye(2)[targets], targets, inputs=inputs)) == []


@pytest.mark.parametrize(
    ("priors", "words"),
    [
        ({"a": 0.92, "b": 0.08}, "wrong classes"),
        ({"a": 0.001, "b": 0.999}, None),
        ({"a": 0.3, "b": 0.7}, None),
        ({"a": 0.08, "b": 0.92}, None),
    ],
)
def test_priors_of_other_classes_are_doubted(priors: dict[str, float], words: str | None) -> None:
    """Priors that fit the shares the other way round are a mistake; those that only differ are what priors are for."""
    targets = (np.arange(1000) % 100 >= 8).astype(np.int64)
    logits = np.random.default_rng(0).normal(size=(1000, 2))
    found = class_rows(examined(logits, targets, class_names=["a", "b"], class_priors=priors))
    assert [notice.code for notice in found] == (["class_shares"] if words else [])
    assert not words or words in found[0].message


def test_a_class_said_to_be_many_times_as_frequent() -> None:
    """Forty per cent of a class that has one row in a hundred rest on a few rows."""
    targets = (np.arange(1000) % 100 == 0).astype(np.int64)
    logits = np.random.default_rng(0).normal(size=(1000, 2))
    (notice,) = class_rows(examined(logits, targets, class_names=["a", "b"], class_priors={"a": 0.6, "b": 0.4}))
    assert notice.code == "class_shares"
    assert "'b' is said to be" in notice.message


def test_the_rarer_of_two_classes_said_to_be_most_rows() -> None:
    """A class of 37 % of the rows is declared as 90 %; the other way is what priors are for."""
    targets = (np.arange(1000) % 100 < 37).astype(np.int64)
    logits = np.random.default_rng(0).normal(size=(1000, 2))
    for priors, codes in (({"a": 0.1, "b": 0.9}, ["class_shares"]), ({"a": 0.99, "b": 0.01}, [])):
        found = class_rows(examined(logits, targets, class_names=["a", "b"], class_priors=priors))
        assert [notice.code for notice in found] == codes


@pytest.mark.parametrize(("groups", "codes"), [(3, ["few_groups"]), (5, ["few_groups"]), (6, []), (40, [])])
def test_groups_too_few_to_show_anything(groups: int, codes: list[str]) -> None:
    """Below six groups of test rows no gain has a p-value that counts."""
    inputs, targets, logits = table()
    splits = np.repeat([SPLITS.index(name) for name in ("calibration", "test")], 300).astype(np.int8)
    match = examined(logits, targets, inputs=inputs, splits=splits, groups=np.arange(600) % groups)
    assert [notice.code for notice in class_rows(match)] == codes


@pytest.mark.parametrize("classes", [2, 10])
def test_probabilities_in_place_of_logits_end_a_job(classes: int) -> None:
    """The notice says how sure an answer can be at most: e / (e + K - 1)."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(0), classes, 300)
    assert softmax_twice(examined(logits, targets)) == []
    assert softmax_twice(examined(0.1 * logits, targets)) == []
    (notice,) = softmax_twice(examined(softmax(logits, axis=1), targets))
    assert (notice.code, notice.severity) == ("softmax_twice", "error")
    assert notice.evidence["most_confidence"] == {2: 0.731059, 10: 0.231969}[classes]
