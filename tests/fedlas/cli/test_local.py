"""Predictions of a local file: columns by their names, promises of its metadata, and what it cannot answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fedlas
from fedlas.cli.failures import CommandError
from fedlas.cli.local import predict
from fedlas.cli.rows import Rows
from tests.helpers.command_line import drawn_rows, scaled_model

ROWS, LABELS, _ = drawn_rows(test=600)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated file whose columns are called a, b and c, with guarantee rows."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "sharp.onnx").write_bytes(scaled_model(3.0))
    splits = np.repeat(["calibration", "guarantee", "test"], [400, 300, 300])
    columns = zip(*ROWS.T.tolist(), LABELS, splits, strict=True)
    lines = [f"{a!r},{b!r},{c!r},{label},{split}" for a, b, c, label, split in columns]
    (folder / "rows.csv").write_text("\n".join(["a,b,c,label,split", *lines]))
    rows = fedlas.LabelledRows(folder / "rows.csv", seen_by_model="no")
    return fedlas.calibrate(folder / "sharp.onnx", rows, method="temperature").save(folder / "calibrated.onnx")


def labels_of(answer: object) -> list[str]:
    """The labels that are answered."""
    return [one["label"] for one in dict(answer)["predictions"]]  # type: ignore[call-overload]


def test_columns_go_by_their_names(file: Path) -> None:
    """A csv file, or objects, may have them in any order; other columns are an error with their names."""
    rows = ROWS[:20].tolist()
    expected = labels_of(predict(file, Rows(rows)))
    turned = [[c, a, b] for a, b, c in rows]
    assert expected != labels_of(predict(file, Rows(turned)))
    assert labels_of(predict(file, Rows(turned, ["c", "a", "b"]))) == expected
    assert labels_of(predict(file, Rows([dict(zip("cab", row, strict=True)) for row in turned]))) == expected
    with pytest.raises(CommandError, match="missing c; leave out d"):
        predict(file, Rows(rows, ["a", "b", "d"]))


def test_promises_are_those_of_the_file(file: Path) -> None:
    """`max_error` abstains, `coverage` answers sets, and what cannot be promised is a sentence."""
    answer = predict(file, Rows(ROWS.tolist()), max_error=0.25, coverage=0.9, top_k=2, probabilities=True)
    answers, names = answer["predictions"], answer["class_names"]
    assert all(one["probabilities"][names.index(one["label"])] == one["confidence"] for one in answers)
    kept = [(one["label"] == str(label)) for one, label in zip(answers, LABELS, strict=True) if not one["abstain"]]
    assert 0 < len(kept) < len(answers)
    assert np.mean(kept) > 0.75
    assert np.mean([str(label) in one["prediction_set"] for one, label in zip(answers, LABELS, strict=True)]) > 0.87
    assert all(len(one["top_k"]) == 2 and one["top_k"][0]["confidence"] == one["confidence"] for one in answers)
    with pytest.raises(CommandError, match="the smallest share that can be promised"):
        predict(file, Rows(ROWS.tolist()), max_error=0.0)


def test_an_uploaded_file_is_not_calibrated(file: Path) -> None:
    """A file without the standard outputs says what it lacks, one that is no ONNX that it cannot be opened."""
    with pytest.raises(CommandError, match="is not a calibrated file"):
        predict(file.with_name("sharp.onnx"), Rows([[1, 2, 3]]))
    with pytest.raises(CommandError, match="cannot be opened by ONNX Runtime"):
        predict(file.with_name("rows.csv"), Rows([[1, 2, 3]]))


def test_rows_that_do_not_fit(file: Path) -> None:
    """Both shapes stand in the sentence."""
    with pytest.raises(CommandError, match=r"found rows of shape \[2\]; expected rows of shape \[3\]"):
        predict(file, Rows([[1, 2]]))
    with pytest.raises(CommandError, match="no numbers of one shape"):
        predict(file, Rows(json.loads('[["a", 1, 2]]')))
