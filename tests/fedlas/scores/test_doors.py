"""Scores through the doors of the library and of the command line, and the sentences for scores of no use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest

import fedlas
from fedlas.cli import main
from fedlas.errors import BadDataset, ConversionError
from fedlas.scores.page import score_svg, thresholds
from tests.helpers.judges import judged_csv, judged_rows

SCORES, RIGHT = judged_rows(600, seed=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A csv of these rows."""
    path = tmp_path / "scores.csv"
    path.write_text(judged_csv(SCORES, RIGHT))
    return path


def test_one_file_has_one_promise_through_every_door_here(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path, arrays, a frame, words with a missing score as None, and the command line make one promise."""
    promise = fedlas.calibrate(file, promise={"max_error": 0.1}).promise
    assert promise.threshold is not None
    words = np.where(RIGHT == 1, "up", "down")
    listed = [None if np.isnan(score) else score for score in SCORES.tolist()]
    for given in (
        {"scores": SCORES, "labels": RIGHT},
        {"scores": pd.DataFrame({"score": SCORES, "label": RIGHT})},
        {"scores": listed, "labels": words, "class_names": ["down", "up"]},
        {"scores": file},
    ):
        assert fedlas.calibrate(promise={"precision": 0.9}, **given).promise == promise  # type: ignore[call-overload]
    assert main(["calibrate", str(file), "--max-error", "0.1", "--local"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == promise.sentence


def test_the_files_say_what_the_result_says(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ONNX file answers as `predict`, the report is that of the library, and `accept` is the threshold's side."""
    result = fedlas.calibrate(file, valid_for="v1", promise={"max_error": 0.1})
    out, report = tmp_path / "judge.onnx", tmp_path / "judge.json"
    options = ["--max-error", "0.1", "--valid-for", "v1", "--local", "--json", "--out", out, "--report", report]
    assert main(["calibrate", str(file), *map(str, options)]) == 0
    assert (
        json.loads(capsys.readouterr().out) == json.loads(report.read_text()) == result.report.model_dump(mode="json")
    )
    rows = np.array([1.0, 5.5, np.nan, 9.9])
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"scores": rows[:, None]})
    np.testing.assert_allclose(probabilities[:, 1], result.predict(rows), atol=1e-5)
    assert result.promise.threshold is not None
    assert result.accept(rows).tolist() == (rows >= result.promise.threshold).tolist()
    assert result._repr_html_().startswith("<iframe ")


def test_signals_go_by_their_names() -> None:
    """Columns of several signals get the prefix, answers take them in any order, and a lacking one is named."""
    signals = {"length": SCORES, "agreement": np.nan_to_num(SCORES, nan=5.0) + np.arange(600) % 3}
    result = fedlas.calibrate(scores=signals, labels=RIGHT)
    assert result.report.signals == ["signal_length", "signal_agreement"]
    turned = pd.DataFrame(dict(reversed(signals.items())))
    np.testing.assert_array_equal(result.predict(turned), result.predict(signals))
    with pytest.raises(BadDataset, match="see 'signal_agreement'"):
        result.predict({"length": [1.0]})


@pytest.mark.parametrize(
    ("scores", "labels", "options", "found"),
    [
        (np.full(200, 7.0), RIGHT[:200], {}, ("unchanged", None)),
        (np.arange(200.0), np.arange(200) >= 100, {}, ("post_hoc", 99.0)),  # one wrong among 101
        (SCORES[:20], np.arange(20) % 2, {}, ("undetermined", None)),
        (SCORES, np.ones(600), {}, ("unchanged", 1.0)),
        (SCORES, RIGHT, {"promise": {"max_error": 0.001}}, ("post_hoc", None)),
    ],
    ids=["constant", "separated", "20 rows", "one label", "a promise nothing keeps"],
)
def test_hard_scores_have_a_report(scores: Any, labels: Any, options: dict[str, Any], found: tuple[str, Any]) -> None:
    """Scores that say nothing, or all, and few rows are no errors: the verdict and the promise say what they hold."""
    result = fedlas.calibrate(scores=scores, labels=labels, **options)
    assert (result.verdict, result.promise.threshold) == found
    assert result.predict(scores).min() > 0
    assert result.predict(scores).max() < 1


def test_a_small_slice_gets_no_threshold() -> None:
    """Nothing is promised of three rows, and the others keep theirs."""
    slices = np.where(np.arange(600) < 3, "rare", "usual")
    result = fedlas.calibrate(scores=SCORES, labels=RIGHT, slices=slices, promise={"max_error": 0.2})
    assert {one.value: one.threshold is None for one in result.promise.per_slice} == {"rare": True, "usual": False}
    assert result.accept([9.9, 9.9, None], slices=["rare", "usual", "usual"]).tolist() == [False, True, False]


def test_a_score_of_another_scale_is_not_accepted() -> None:
    """85 of a judge that says 0 to 1 is accepted nowhere, nor 6 of one that says 1 to 5; 1.02 of the first is."""
    rng = np.random.default_rng(0)
    unit = rng.random(600)
    result = fedlas.calibrate(scores=unit, labels=unit > 0.3)
    assert result.accept([85, 1.02, 0.99, -9]).tolist() == [False, True, True, False]
    five = fedlas.calibrate(scores=np.ceil(5 * unit), labels=unit > 0.3)
    assert five.accept([5, 6, 9]).tolist() == [True, False, False]
    low = fedlas.calibrate(scores=-unit, labels=unit > 0.3)
    assert low.accept([-0.99, -85]).tolist() == [True, False]


def test_a_printed_threshold_is_the_threshold() -> None:
    """The number in the sentence, the table and the picture is the one that accepts, to the last digit."""
    scores = np.linspace(0.5, 1 - 1e-12, 300)
    result = fedlas.calibrate(scores=scores, labels=np.arange(300) >= 60)
    threshold = result.promise.threshold
    assert threshold is not None
    (said,) = re.findall(r"Scores of (\S+) and above", result.summary[0])
    assert float(said) == threshold
    assert f"{said}: " in score_svg(result.report)
    assert [one["score"] for one in thresholds(result.report) if one["promised"]] == [said]
    assert "Of such rows at most 5 % are wrong" in result.summary[0]
    assert "labels taken as true" in result.summary[1]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"scores": SCORES[:9], "labels": RIGHT[:9]}, "too_few_rows"),
        ({"scores": [*SCORES[:50], np.inf], "labels": [*RIGHT[:50], 1]}, "non_finite"),
        ({"scores": ["high"] * 20, "labels": [0, 1] * 10}, "bad_scores"),
        ({"scores": SCORES[:20], "labels": ["up", "down"] * 10}, "bad_labels"),
        ({"scores": SCORES[:20], "labels": [None, 1] * 10}, "bad_labels"),
        ({"scores": SCORES[:20], "labels": RIGHT[:19]}, "length_mismatch"),
        ({"scores": SCORES}, "no_label"),
    ],
)
def test_scores_of_no_use_are_a_sentence(given: dict[str, Any], code: str) -> None:
    """A BadDataset has the code of what is wrong, and one line."""
    with pytest.raises(BadDataset) as raised:
        fedlas.calibrate(**given)
    assert (raised.value.code, "\n" in raised.value.message) == (code, False)


def test_arguments_that_do_not_go_together() -> None:
    """Labels without scores, a model beside scores, and a promise that is none are sentences."""
    for given, words in (
        ({"model": 1, "labels": RIGHT}, "labels go with scores="),
        ({"model": 1, "scores": SCORES, "labels": RIGHT}, "not both"),
        (
            {"scores": SCORES, "labels": RIGHT, "promise": {"max_error": 2}},
            "promise: Input should be less than or equal to 0.9999",
        ),
    ):
        with pytest.raises(ConversionError, match=words):
            fedlas.calibrate(**given)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("rows", "arguments", "code", "said"),
    [
        (600, "--max-error 0.2", 0, ""),
        (600, "--max-error 0.01", 4, ""),  # the probabilities are better, and nothing is promised
        (12, "", 4, ""),
        (600, "--budget 2m", 2, "--budget is for a model with rows"),
        (600, "--publish-as x", 1, "publish_as needs a service"),
        (600, "rows.npz --slice a", 2, "--slice is for scores"),
    ],
)
def test_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int, arguments: str, code: int, said: str
) -> None:
    """0 for a promise, 4 where there is none; options of models with rows are wrong command lines."""
    path = tmp_path / "scores.csv"
    path.write_text(judged_csv(SCORES[:rows], RIGHT[:rows]))
    assert main(["calibrate", str(path), *arguments.split(), "--local"]) == code
    assert said in capsys.readouterr().err


def test_labels_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """More labels are needed than would do with no error at all."""
    assert main(["label-plan", "--max-error", "0.1", "--accept", "0.5", "-q"]) == 0
    assert 60 < int(capsys.readouterr().out) < 1000
