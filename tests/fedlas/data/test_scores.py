"""Scores and labels in a file: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.data import SPLITS, Dataset
from fedlas.data.scores import MAX_ROWS, read_scores
from fedlas.errors import BadDataset
from tests.helpers import uploads as made
from tests.helpers.drawn_rows import drawn_scores, plain_softmax
from tests.helpers.refusals import refusal

Array = NDArray[Any]


def read(folder: Path, content: bytes, class_names: list[str] | None = None, **options: Any) -> Dataset:
    """Read what was sent."""
    (folder / "scores").write_bytes(content)
    return read_scores(folder / "scores", class_names=class_names, **options)


def columns(prefix: str, scores: Array, names: list[str] | None = None) -> dict[str, Array]:
    """Scores as one column per class."""
    suffixes = names or [str(index) for index in range(scores.shape[1])]
    return {f"{prefix}{suffix}": scores[:, index] for index, suffix in enumerate(suffixes)}


def test_every_way_to_write_the_same_scores(tmp_path: Path) -> None:
    """An array, numbered columns in any order and spelling, and a list column are the same scores."""
    logits, targets = drawn_scores(40)
    lists = np.array([f'"{json.dumps([float(value) for value in row])}"' for row in logits])
    shuffled = columns("logit_", logits)
    ways = [
        made.npz(logits=logits, labels=targets),
        made.npz(logits=logits.astype(np.float64), y=targets[:, None]),
        made.csv({**columns("logit_", logits), "label": targets}),
        made.csv({"target": targets, **columns("Logits.", logits)}),
        made.csv({name: shuffled[name] for name in sorted(shuffled, reverse=True)} | {"label": targets}),
        made.csv({"logits": lists, "label": targets}),
    ]
    for content in ways:
        scores = read(tmp_path, content)
        assert list(scores.inputs) == ["logits"]
        np.testing.assert_array_equal(scores.inputs["logits"], logits)
        np.testing.assert_array_equal(scores.targets, targets)


def test_columns_can_name_the_classes(tmp_path: Path) -> None:
    """Named columns say what the words in the label column mean; class_names put them into another order."""
    logits, targets = drawn_scores(40, 3)
    words = np.array(["dog", "cat", "eel"])[targets]
    content = made.csv({**columns("logit_", logits, ["dog", "cat", "eel"]), "label": words})
    scores = read(tmp_path, content)
    assert scores.class_names == ["dog", "cat", "eel"]
    np.testing.assert_array_equal(scores.targets, targets)
    turned = read(tmp_path, content, ["cat", "eel", "dog"])
    np.testing.assert_array_equal(turned.inputs["logits"], scores.inputs["logits"][:, [1, 2, 0]])
    np.testing.assert_array_equal(turned.targets, np.array([2, 0, 1])[targets])


def test_words_without_names_are_sorted_and_said(tmp_path: Path) -> None:
    """Class names without a given order are columns in sorted order, and the report says so; too few are an error."""
    logits, targets = drawn_scores(60, 3)
    words = np.array(["b", "a", "c"])[targets]
    scores = read(tmp_path, made.npz(logits=logits, labels=words))
    np.testing.assert_array_equal(scores.targets, np.array([1, 0, 2])[targets])
    assert any("sorted order: a, b, c" in warning for warning in scores.warnings)
    with refusal(BadDataset, "class_names_needed"):
        read(tmp_path, made.npz(logits=logits, labels=np.where(words == "c", "a", words)))


def test_what_looks_odd_is_said(tmp_path: Path) -> None:
    """Unused columns are mentioned."""
    logits, targets = drawn_scores(60, 3)
    warnings = read(tmp_path, made.npz(logits=plain_softmax(logits), labels=targets, height=np.ones(60))).warnings
    assert any("not used: height" in warning for warning in warnings)
    assert read(tmp_path, made.npz(logits=logits, labels=targets)).warnings == []


LOGITS, TARGETS = drawn_scores(40, 3)
PROBABILITIES = plain_softmax(LOGITS)


def changed(array: Array, row: int, value: Any) -> Array:
    """The array with another value (or row) at `row`."""
    copy = array.copy()
    copy[row] = value
    return copy


BAD: dict[str, tuple[bytes, str, str]] = {
    "not a data file": (b"\x00\x01\x02\x03" * 10, "unsupported_format", "npz"),
    "pickle": (b"\x80\x04K\x01.", "unsafe_format", "never opened"),
    "object array": (made.npz(logits=np.array([None] * 40, dtype=object), labels=TARGETS), "object_array", "logits"),
    "no labels": (made.npz(logits=LOGITS), "no_label", "label"),
    "no scores": (made.npz(x=LOGITS, labels=TARGETS), "no_scores", "x"),
    "both": (made.npz(logits=LOGITS, probabilities=PROBABILITIES, labels=TARGETS), "ambiguous_scores", "logits"),
    "one column": (made.npz(logits=LOGITS[:, :1], labels=TARGETS), "bad_shape", "(40, 1)"),
    "flat": (made.npz(probabilities=PROBABILITIES[:, 0], labels=TARGETS), "bad_shape", "(40,)"),
    "three dimensions": (made.npz(logits=LOGITS[:, :, None], labels=TARGETS), "bad_shape", "(40, 3, 1)"),
    "text": (made.npz(logits=np.full((40, 3), "a"), labels=TARGETS), "bad_scores", "<U1"),
    "complex": (made.npz(logits=LOGITS + 1j, labels=TARGETS), "unsupported_dtype", "complex64"),
    "fewer labels": (made.npz(logits=LOGITS, labels=TARGETS[:-1]), "length_mismatch", "has 39"),
    "no rows": (made.npz(logits=LOGITS[:0], labels=TARGETS[:0]), "empty", "no rows"),
    "NaN": (made.npz(logits=changed(LOGITS, 7, [0, np.nan, 0]), labels=TARGETS), "non_finite", "row 7, column 1"),
    "infinity": (made.npz(logits=changed(LOGITS, 7, -np.inf), labels=TARGETS), "non_finite", "-inf in row 7"),
    "too large": (
        made.npz(logits=changed(LOGITS.astype(np.float64), 7, 1e39), labels=TARGETS),
        "non_finite",
        "float32",
    ),
    "NaN probability": (
        made.npz(probabilities=changed(PROBABILITIES, 9, np.nan), labels=TARGETS),
        "non_finite",
        "row 9",
    ),
    "sum": (
        made.npz(probabilities=changed(PROBABILITIES, 5, [0.5, 0.4, 0.05]), labels=TARGETS),
        "not_probabilities",
        "row 5",
    ),
    "negative": (
        made.npz(probabilities=changed(PROBABILITIES, 6, [1.1, -0.1, 0.0]), labels=TARGETS),
        "not_probabilities",
        "row 6",
    ),
    "label too high": (made.npz(logits=LOGITS, labels=changed(TARGETS, 3, 3)), "labels_out_of_range", "row 3"),
    "label negative": (made.npz(logits=LOGITS, labels=changed(TARGETS, 3, -1)), "labels_out_of_range", "0 to 2"),
    "label broken": (made.npz(logits=LOGITS, labels=TARGETS + 0.5), "bad_labels", "row 0"),
    "one class": (made.npz(logits=LOGITS, labels=np.zeros(40, int)), "one_class", "two classes"),
    "few rows": (made.npz(logits=LOGITS[:18], labels=TARGETS[:18]), "split_too_small", "at least 10"),
    "one group": (made.npz(logits=LOGITS, labels=TARGETS, group=np.zeros(40)), "split_too_small", "at least 10"),
    "unknown split": (made.npz(logits=LOGITS, labels=TARGETS, split=["dev"] * 40), "unknown_split", "dev"),
    "group in two splits": (
        made.npz(logits=LOGITS, labels=TARGETS, group=[1] * 40, split=["calibration", "test"] * 20),
        "group_crosses_splits",
        "'1'",
    ),
    "gap in the columns": (
        made.csv({**columns("logit_", LOGITS, ["0", "1", "3"]), "label": TARGETS}),
        "bad_columns",
        "logit_3",
    ),
    "text in a column": (
        made.csv({"logit_0": LOGITS[:, 0], "logit_1": ["x"] * 40, "label": TARGETS}),
        "bad_scores",
        "logit_1",
    ),
    "empty cell": (b"logit_0,logit_1,label\n" + b"1,2,0\n" * 15 + b"1,,1\n" + b"3,1,1\n" * 10, "non_finite", "row 15"),
    "ragged lists": (b'logits,label\n"[1,2]",0\n"[1,2,3]",1\n', "bad_scores", "row 1"),
    "broken list": (b'logits,label\n"[1,2]",0\n"[1;2]",1\n', "bad_scores", "row 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scores_have_a_code_and_a_place(tmp_path: Path, name: str) -> None:
    """Whatever is wrong has a code of its own, and the message names the row, the column or the word."""
    content, code, words = BAD[name]
    with pytest.raises(BadDataset) as caught:
        read(tmp_path, content)
    assert (caught.value.code, words in caught.value.message) == (code, True), caught.value.message


@pytest.mark.parametrize(
    ("names", "columns_named"), [(["a", "b"], None), (["a", "b", "b"], None), (["a", "b", "z"], ["a", "b", "c"])]
)
def test_class_names_must_fit(tmp_path: Path, names: list[str], columns_named: list[str] | None) -> None:
    """Too few names, a name twice, and names that the columns contradict are refused."""
    with refusal(BadDataset, "class_names_mismatch"):
        read(tmp_path, made.csv({**columns("logit_", LOGITS, columns_named), "label": TARGETS}), names)


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    """The first row beyond the limit is refused; the limit itself is read."""
    for rows, refused in ((MAX_ROWS, False), (MAX_ROWS + 1, True)):
        content = made.npz(logits=np.zeros((rows, 2), np.float32), labels=np.arange(rows) % 2)
        if refused:
            with refusal(BadDataset, "too_many_rows"):
                read(tmp_path, content)
        else:
            assert len(read(tmp_path, content).targets) == rows


# Uses of rows


def test_weights_leave_a_sample_of_the_population(tmp_path: Path) -> None:
    """Test rows that stand for fewer are thinned until all count alike; calibration rows count by weight."""
    logits, targets = drawn_scores(2000)
    weight = np.where(np.arange(2000) % 2 == 0, 1.0, 4.0)
    scores = read(tmp_path, made.npz(logits=logits, labels=targets, weight=weight))
    stayed = weight[scores.rows("test")]
    assert (stayed == 4).sum() / (stayed == 1).sum() == pytest.approx(4, rel=0.2)
    fitting = scores.rows("calibration")
    assert len(fitting) == 1000
    np.testing.assert_array_equal(scores.weights_of("calibration"), weight[fitting])
    assert any("by the weights in 'weight'" in warning for warning in scores.warnings)


def test_roles_can_be_named(tmp_path: Path) -> None:
    """Columns named by roles, as in a dataset, are no scores, and not unused."""
    logits, targets = drawn_scores(200)
    content = made.npz(logits=logits, diagnosis=targets, site=np.arange(200) % 2, age=np.arange(200))
    scores = read(tmp_path, content, roles={"label": "diagnosis", "group": "age", "slices": ["site"]})
    np.testing.assert_array_equal(scores.targets, targets)
    assert (list(scores.slices), len(np.unique(scores.groups)), scores.warnings) == (["site"], 200, [])


def test_shares_of_scores(tmp_path: Path) -> None:
    """Shares are kept, and what would train fits too, since scores train nothing."""
    logits, targets = drawn_scores(200)
    shares = {"train": 0.3, "calibration": 0.2, "guarantee": 0.2, "test": 0.3}
    scores = read(tmp_path, made.npz(logits=logits, labels=targets), split_shares=shares)
    assert np.bincount(scores.splits).tolist() == [0, 100, 40, 60]


def test_the_latest_rows_judge(tmp_path: Path) -> None:
    """With the role `time` the earlier half fits and the later half judges."""
    logits, targets = drawn_scores(100)
    scores = read(tmp_path, made.npz(logits=logits, labels=targets, time=np.arange(100)[::-1]))
    assert [SPLITS[code] for code in scores.splits] == ["test"] * 50 + ["calibration"] * 50
