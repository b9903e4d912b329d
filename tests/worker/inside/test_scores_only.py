"""Calibrators from scores alone: what is read, what is refused, and whether the file does what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from fedlas.errors import BadDataset
from tests.helpers import uploads as made
from worker.inside.scores_only import fit_scores
from worker.inside.scores_only.reading import MAX_ROWS, Scores, read_scores

Json = dict[str, Any]
Array = NDArray[Any]


def drawn(rows: int = 2000, classes: int = 4, *, sharpened: float = 3.0, seed: int = 0) -> tuple[Array, Array]:
    """Logits `sharpened` times too large for the labels that were drawn from them, so the best temperature is that."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(rows, classes)) * 2
    targets = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    return (sharpened * true).astype(np.float32), targets


def softmax(logits: Array) -> Array:
    """An implementation of the test's own."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def read(folder: Path, content: bytes, class_names: list[str] | None = None) -> Scores:
    """Read what was sent."""
    (folder / "scores").write_bytes(content)
    return read_scores(folder / "scores", class_names=class_names)


def fit(folder: Path, content: bytes, *, method: str = "auto", class_names: list[str] | None = None) -> Json:
    """Fit on what was sent."""
    (folder / "scores").write_bytes(content)
    options = {"method": method, "class_names": class_names}
    return fit_scores({"file": str(folder / "scores"), "sha256": "s" * 64, "options": options}, folder, lambda _: None)


def run(folder: Path, rows: Array) -> tuple[Array, Array]:
    """What the file alone answers, in a plain ONNX Runtime."""
    session = ort.InferenceSession(str(folder / "calibrator.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert [output.name for output in session.get_outputs()] == ["probabilities", "confidence"]
    probabilities, confidence = session.run(None, {given.name: rows.astype(np.float32)})
    return probabilities, confidence


def columns(prefix: str, scores: Array, names: list[str] | None = None) -> dict[str, Array]:
    """Scores as one column per class."""
    suffixes = names or [str(index) for index in range(scores.shape[1])]
    return {f"{prefix}{suffix}": scores[:, index] for index, suffix in enumerate(suffixes)}


# What is read


def test_every_way_to_write_the_same_scores(tmp_path: Path) -> None:
    """An array, numbered columns in any order and spelling, and a list column are the same scores."""
    logits, targets = drawn(40)
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
        assert scores.kind == "logits"
        np.testing.assert_array_equal(scores.values, logits.astype(np.float64))
        np.testing.assert_array_equal(scores.targets, targets)


def test_columns_can_name_the_classes(tmp_path: Path) -> None:
    """Named columns say what the words in the label column mean; class_names put them into another order."""
    logits, targets = drawn(40, 3)
    words = np.array(["dog", "cat", "eel"])[targets]
    content = made.csv({**columns("logit_", logits, ["dog", "cat", "eel"]), "label": words})
    scores = read(tmp_path, content)
    assert scores.class_names == ["dog", "cat", "eel"]
    np.testing.assert_array_equal(scores.targets, targets)
    turned = read(tmp_path, content, ["cat", "eel", "dog"])
    np.testing.assert_array_equal(turned.values, scores.values[:, [1, 2, 0]])
    np.testing.assert_array_equal(turned.targets, np.array([2, 0, 1])[targets])


def test_words_without_names_are_sorted_and_said(tmp_path: Path) -> None:
    """Words that nobody ordered are columns in sorted order, and the report says so; too few words are an error."""
    logits, targets = drawn(60, 3)
    words = np.array(["b", "a", "c"])[targets]
    scores = read(tmp_path, made.npz(logits=logits, labels=words))
    np.testing.assert_array_equal(scores.targets, np.array([1, 0, 2])[targets])
    assert "sorted order: a, b, c" in scores.notes[0]
    with pytest.raises(BadDataset) as caught:
        read(tmp_path, made.npz(logits=logits, labels=np.where(words == "c", "a", words)))
    assert caught.value.code == "class_names_needed"


def test_probabilities_of_zero_and_one_are_allowed(tmp_path: Path) -> None:
    """A probability of exactly 0 counts as float32's smallest: its logarithm is finite, and no row is refused."""
    probabilities = np.array([[1.0, 0.0], [0.25, 0.75]] * 20)
    scores = read(tmp_path, made.npz(probabilities=probabilities, labels=[0, 1] * 20))
    assert scores.logits[0].tolist() == [0.0, pytest.approx(-87.336545)]
    np.testing.assert_allclose(softmax(scores.logits), probabilities, atol=1e-7)


def test_what_looks_odd_is_said(tmp_path: Path) -> None:
    """Probabilities sent as logits, and columns that nobody uses, are mentioned."""
    logits, targets = drawn(60, 3)
    notes = read(tmp_path, made.npz(logits=softmax(logits), labels=targets, weight=np.ones(60))).notes
    assert any("if they are probabilities" in note for note in notes)
    assert any("not used: weight" in note for note in notes)
    assert read(tmp_path, made.npz(logits=logits, labels=targets)).notes == []


LOGITS, TARGETS = drawn(40, 3)
PROBABILITIES = softmax(LOGITS)


def changed(array: Array, row: int, value: Any) -> Array:
    """The array with another value (or row) at `row`."""
    copy = array.copy()
    copy[row] = value
    return copy


BAD: dict[str, tuple[bytes, str, str]] = {
    "not a data file": (b"\x00\x01\x02\x03" * 10, "unsupported_format", "npz"),
    "pickle": (b"\x80\x04K\x01.", "unsafe_format", "never opened"),
    "object array": (
        made.npz(logits=np.array([None] * 40, dtype=object), labels=TARGETS), "object_array", "logits"
    ),
    "no labels": (made.npz(logits=LOGITS), "no_label", "label"),
    "no scores": (made.npz(x=LOGITS, labels=TARGETS), "no_scores", "x"),
    "both": (made.npz(logits=LOGITS, probabilities=PROBABILITIES, labels=TARGETS), "ambiguous_scores", "logits"),
    "one column": (made.npz(logits=LOGITS[:, :1], labels=TARGETS), "bad_shape", "(40, 1)"),
    "flat": (made.npz(probabilities=PROBABILITIES[:, 0], labels=TARGETS), "bad_shape", "(40,)"),
    "three dimensions": (made.npz(logits=LOGITS[:, :, None], labels=TARGETS), "bad_shape", "(40, 3, 1)"),
    "text": (made.npz(logits=np.full((40, 3), "a"), labels=TARGETS), "bad_scores", "<U1"),
    "complex": (made.npz(logits=LOGITS + 1j, labels=TARGETS), "unsupported_dtype", "complex64"),
    "fewer labels": (made.npz(logits=LOGITS, labels=TARGETS[:-1]), "length_mismatch", "(39,)"),
    "no rows": (made.npz(logits=LOGITS[:0], labels=TARGETS[:0]), "empty", "no rows"),
    "NaN": (made.npz(logits=changed(LOGITS, 7, [0, np.nan, 0]), labels=TARGETS), "non_finite", "row 7, column 1"),
    "infinity": (made.npz(logits=changed(LOGITS, 7, -np.inf), labels=TARGETS), "non_finite", "-inf in row 7"),
    "too large": (
        made.npz(logits=changed(LOGITS.astype(np.float64), 7, 1e39), labels=TARGETS), "non_finite", "float32"
    ),
    "NaN probability": (
        made.npz(probabilities=changed(PROBABILITIES, 9, np.nan), labels=TARGETS), "non_finite", "row 9"
    ),
    "sum": (
        made.npz(probabilities=changed(PROBABILITIES, 5, [0.5, 0.4, 0.05]), labels=TARGETS),
        "not_probabilities", "row 5",
    ),
    "negative": (
        made.npz(probabilities=changed(PROBABILITIES, 6, [1.1, -0.1, 0.0]), labels=TARGETS),
        "not_probabilities", "row 6",
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
        "group_crosses_splits", "'1'",
    ),
    "gap in the columns": (
        made.csv({**columns("logit_", LOGITS, ["0", "1", "3"]), "label": TARGETS}), "bad_columns", "logit_3"
    ),
    "text in a column": (
        made.csv({"logit_0": LOGITS[:, 0], "logit_1": ["x"] * 40, "label": TARGETS}), "bad_scores", "logit_1"
    ),
    "empty cell": (b"logit_0,logit_1,label\n" + b"1,2,0\n" * 15 + b"1,,1\n" + b"3,1,1\n" * 10, "non_finite", "row 15"),
    "ragged lists": (b'logits,label\n"[1,2]",0\n"[1,2,3]",1\n', "bad_scores", "row 1"),
    "broken list": (b'logits,label\n"[1,2]",0\n"[1;2]",1\n', "bad_scores", "row 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_scores_have_a_code_and_a_place(tmp_path: Path, name: str) -> None:
    """Whatever is wrong has a code of its own, and the message names the row, the column or the word."""
    content, code, words = BAD[name]
    with pytest.raises(BadDataset) as caught:
        fit(tmp_path, content)
    assert (caught.value.code, words in caught.value.message) == (code, True), caught.value.message
    assert not (tmp_path / "calibrator.onnx").exists()


@pytest.mark.parametrize(
    ("names", "columns_named"), [(["a", "b"], None), (["a", "b", "b"], None), (["a", "b", "z"], ["a", "b", "c"])]
)
def test_class_names_must_fit(tmp_path: Path, names: list[str], columns_named: list[str] | None) -> None:
    """Too few names, a name twice, and names that the columns contradict are refused."""
    with pytest.raises(BadDataset) as caught:
        read(tmp_path, made.csv({**columns("logit_", LOGITS, columns_named), "label": TARGETS}), names)
    assert caught.value.code == "class_names_mismatch"


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    """The first row beyond the limit is refused; the limit itself is read."""
    for rows, refused in ((MAX_ROWS, False), (MAX_ROWS + 1, True)):
        targets = np.arange(rows) % 2
        content = made.npz(logits=np.zeros((rows, 2), np.float32), labels=targets)
        if refused:
            with pytest.raises(BadDataset) as caught:
                read(tmp_path, content)
            assert caught.value.code == "too_many_rows"
        else:
            assert len(read(tmp_path, content).targets) == rows


# What is fitted and said


def test_the_temperature_is_the_best_of_the_calibration_rows(tmp_path: Path) -> None:
    """Found by an optimiser of somebody else's on the calibration rows alone; the test rows have no say in it."""
    logits, targets = drawn(1200)
    split = np.where(np.arange(1200) % 3 == 0, "calibration", np.where(np.arange(1200) % 3 == 1, "test", "train"))
    result = fit(tmp_path, made.npz(logits=logits, labels=targets, split=split), method="temperature")
    chosen = split == "calibration"

    def loss(log_temperature: float) -> float:
        return float(log_loss(targets[chosen], softmax(logits[chosen] / np.exp(log_temperature)), labels=range(4)))

    best = float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x))
    assert result["parameters"]["temperature"] == pytest.approx(best, rel=1e-4)
    assert (result["report"]["num_calibration_rows"], result["report"]["num_test_rows"]) == (400, 400)
    assert any("400 rows of the splits train and guarantee" in line for line in result["report"]["summary"])


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_the_file_alone_gives_the_reported_figures(tmp_path: Path, kind: str) -> None:
    """ONNX Runtime on the test rows gives probabilities whose log loss and accuracy are those of the report."""
    logits, targets = drawn(1000)
    split = np.where(np.arange(1000) % 2 == 0, "calibration", "test")
    sent = logits if kind == "logits" else softmax(logits).astype(np.float32)
    result = fit(tmp_path, made.npz(**{kind: sent}, labels=targets, split=split))
    probabilities, confidence = run(tmp_path, sent)
    np.testing.assert_allclose(confidence, probabilities.max(axis=1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    judged = split == "test"
    shown = result["report"]["metrics"]
    for name, given in (("uploaded", softmax(logits)), ("calibrated", softmax(np.log(probabilities)))):
        expected = log_loss(targets[judged], given[judged], labels=range(4))
        assert shown[name]["nll"]["value"] == pytest.approx(expected, rel=1e-4)
        assert shown[name]["accuracy"]["value"] == pytest.approx((given.argmax(axis=1) == targets)[judged].mean())
    if result["method"] == "temperature":
        scale = result["parameters"]["temperature"]
        np.testing.assert_allclose(probabilities, softmax(logits / scale), atol=1e-5)


def test_overconfident_scores_are_mended_and_calibrated_ones_are_not_touched_up(tmp_path: Path) -> None:
    """Logits three times too large are shown to gain; logits that were right already are not promoted."""
    logits, targets = drawn(3000)
    mended = fit(tmp_path, made.npz(logits=logits, labels=targets))["report"]
    assert (mended["verdict"], mended["promoted"]) == ("post_hoc", True)
    assert mended["differences"]["calibrated_minus_uploaded"]["brier"]["high"] < 0
    right, targets = drawn(3000, sharpened=1.0)
    same = fit(tmp_path, made.npz(logits=right, labels=targets))["report"]
    assert (same["verdict"], same["promoted"]) == ("unchanged", False)
    assert any("returned all the same" in line for line in same["summary"])
    for report in (mended, same):
        assert any("not trained on any of these rows" in line for line in report["summary"])


def test_halves_are_drawn_once_and_by_class(tmp_path: Path) -> None:
    """The same file is always halved the same way, half of each class, and groups stay together."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], [900, 100])
    logits = rng.normal(size=(1000, 2)).astype(np.float32)
    logits[np.arange(1000), targets] += 1
    content = made.npz(logits=logits, labels=targets)
    first, again = fit(tmp_path, content), fit(tmp_path, content)
    assert first == again
    assert (first["report"]["num_calibration_rows"], first["report"]["num_test_rows"]) == (500, 500)
    grouped = made.npz(logits=logits, labels=targets, group=np.arange(1000) % 50)
    report = fit(tmp_path, grouped)["report"]
    assert report["num_calibration_rows"] % 20 == report["num_test_rows"] % 20 == 0


def test_named_methods(tmp_path: Path) -> None:
    """A method by name is that method; one that does not exist or does not suit is refused with the choice."""
    logits, targets = drawn(600, 2)
    binary = made.npz(logits=logits, labels=targets)
    found = fit(tmp_path, binary, method="affine")
    assert (found["method"], found["report"]["methods"]["tried"]) == ("affine", ["affine"])
    with pytest.raises(BadDataset) as caught:
        fit(tmp_path, binary, method="magic")
    assert (caught.value.code, "temperature" in caught.value.message) == ("unknown_method", True)
    with pytest.raises(BadDataset) as caught:
        fit(tmp_path, made.npz(logits=drawn(600, 4)[0], labels=drawn(600, 4)[1]), method="affine")
    assert caught.value.code == "unsuitable_method"


def test_affine_is_the_logistic_line(tmp_path: Path) -> None:
    """On rows with a shifted base rate the slope and intercept are those of scikit-learn's logistic regression."""
    rng = np.random.default_rng(0)
    log_odds = rng.normal(size=4000) * 2
    targets = (rng.random(4000) < 1 / (1 + np.exp(-(0.5 * log_odds - 1)))).astype(int)
    split = np.where(np.arange(4000) < 2000, "calibration", "test")
    logits = np.stack([np.zeros(4000), log_odds], axis=1).astype(np.float32)
    result = fit(tmp_path, made.npz(logits=logits, labels=targets, split=split), method="affine")
    line = LogisticRegression(C=np.inf).fit(log_odds[:2000, None], targets[:2000])
    assert result["parameters"]["slope"] == pytest.approx(line.coef_[0, 0], rel=0.01)
    assert result["parameters"]["intercept"] == pytest.approx(line.intercept_[0], rel=0.01)


@pytest.mark.parametrize("name", ["huge", "perfect", "useless", "a thousand classes", "rare"])
def test_extremes_get_a_true_report(tmp_path: Path, name: str) -> None:
    """Logits of ±1e4, perfect and useless models, many classes and few positives: figures without NaN or null."""
    rng = np.random.default_rng(0)
    rows, classes = (400, 1000) if name == "a thousand classes" else (1000, 2 if name == "rare" else 4)
    targets = rng.integers(0, classes, rows)
    if name == "rare":
        targets = (np.arange(rows) % 250 == 0).astype(int)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), targets] += {"useless": 0, "perfect": 50}.get(name, 2)
    if name == "huge":
        logits *= 1e4 / np.abs(logits).max()
    result = fit(tmp_path, made.npz(logits=logits.astype(np.float32), labels=targets))
    text = json.dumps(result, allow_nan=False)
    for figures in result["report"]["metrics"].values():
        assert None not in [value for metric in figures.values() for value in metric.values()], text[:2000]
    probabilities, _ = run(tmp_path, logits)
    assert np.isfinite(probabilities).all()
    if name == "useless":
        assert result["report"]["metrics"]["calibrated"]["nll"]["value"] == pytest.approx(np.log(4), abs=0.02)
