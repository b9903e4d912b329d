"""Estimators of scikit-learn become files that answer as `predict_proba` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from fedlas.conversion import ConversionError, model_file
from fedlas.importers import load_onnx
from tests.helpers.refusals import refusal

ROWS, LABELS = load_wine(return_X_y=True)
FRAME = pd.DataFrame(ROWS, columns=[f"c{i}" for i in range(ROWS.shape[1])])


def probabilities(path: Path, rows: Any) -> Any:
    """The probabilities that ONNX Runtime computes."""
    session = ort.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: np.asarray(rows, np.float32)})[0]


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(10, random_state=0),
        GradientBoostingClassifier(n_estimators=4, random_state=0),
        GaussianNB(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_file_answers_as_predict_proba_does(tmp_path: Path, estimator: Any) -> None:
    """One output of probabilities, whose names are the estimator's classes, for any number of rows."""
    estimator.fit(ROWS.astype(np.float32), np.array(["barolo", "grignolino", "barbera"])[LABELS])
    file = model_file(estimator, folder=tmp_path, example=ROWS)
    np.testing.assert_allclose(probabilities(file.path, ROWS), estimator.predict_proba(ROWS), atol=1e-4)
    assert file.class_names == ["barbera", "barolo", "grignolino"]
    assert load_onnx(file.path).num_classes == 3


def test_classes_that_are_whole_floats_are_named_as_whole_numbers(tmp_path: Path) -> None:
    """Labels 1.0 and 2.0 are then the classes of these names, not the second and the third."""
    estimator = GaussianNB().fit(ROWS, LABELS + 1.0)
    assert model_file(estimator, folder=tmp_path, example=ROWS).class_names == ["1", "2", "3"]


def test_a_pipeline_that_chooses_columns_by_name_reads_one_matrix(tmp_path: Path) -> None:
    """Columns are named to the service in the pipeline's order; a frame in another order has equal answers."""
    chosen = make_column_transformer((StandardScaler(), ["c7", "c0"]), ("passthrough", ["c3"]))
    pipeline = make_pipeline(chosen, LogisticRegression()).fit(FRAME, LABELS)
    file = model_file(pipeline, folder=tmp_path, example=FRAME[FRAME.columns[::-1]])
    np.testing.assert_allclose(probabilities(file.path, ROWS), pipeline.predict_proba(FRAME), atol=1e-4)
    assert json.loads(file.options["columns"]) == list(FRAME.columns)


@pytest.mark.parametrize(
    ("estimator", "code", "words"),
    [
        (LogisticRegression(), "not_fitted", "call fit first"),
        (LinearRegression().fit(ROWS, LABELS), "no_probabilities", "no predict_proba"),
        (LinearSVC(max_iter=1, tol=10).fit(ROWS, LABELS), "no_probabilities", "probability=True"),
    ],
)
def test_what_cannot_be_written_is_a_sentence(tmp_path: Path, estimator: Any, code: str, words: str) -> None:
    """Each has a code and says what is needed."""
    with refusal(ConversionError, code, words):
        model_file(estimator, folder=tmp_path, example=ROWS)


def test_an_estimator_without_a_converter_is_told_to_send_scores(tmp_path: Path) -> None:
    """skl2onnx knows no classifier of other authors."""

    class Own(LogisticRegression):
        """A subclass, for which no converter is registered."""

    estimator = Own().fit(StandardScaler().fit_transform(ROWS), LABELS)
    with refusal(ConversionError, "not_exportable", r"skl2onnx cannot write Own .*probabilities instead"):
        model_file(estimator, folder=tmp_path, example=ROWS)
