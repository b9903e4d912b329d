"""`CalibratedClassifier` is an estimator of scikit-learn, and honest about the rows that it is fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedlas.calibrators import ShrunkenTemperature
from fedlas.sklearn import CalibratedClassifier


@parametrize_with_checks(
    [
        CalibratedClassifier(),
        CalibratedClassifier(DecisionTreeClassifier(max_depth=3), method="temperature", cv=3, ensemble=False),
    ]
)
def test_it_passes_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    """All of `check_estimator`, with no failure that is expected."""
    check(estimator)


def datasets() -> dict[str, tuple[Any, Any]]:
    """Two classes with useless columns, and ten digits."""
    two = make_classification(3000, 30, n_informative=6, n_redundant=10, flip_y=0.15, random_state=0)
    digits = load_digits(return_X_y=True)
    noisy = digits[0] + np.random.default_rng(0).normal(0, 4, digits[0].shape)
    return {"two classes": two, "digits": (noisy, digits[1])}


@pytest.mark.parametrize("name", ["two classes", "digits"])
@pytest.mark.parametrize(
    "estimator", [GaussianNB(), RandomForestClassifier(20, random_state=0)], ids=["naive Bayes", "forest"]
)
def test_its_log_loss_is_no_worse_than_that_of_scikit_learn(name: str, estimator: Any) -> None:
    """The log loss on unseen rows is no higher than that of both of scikit-learn's methods by default."""
    X, y = datasets()[name]
    half = len(y) // 2
    fitted = {
        "ours": CalibratedClassifier(estimator),
        "sigmoid": CalibratedClassifierCV(estimator, method="sigmoid"),
        "isotonic": CalibratedClassifierCV(estimator, method="isotonic"),
    }
    probs = {name: clone(model).fit(X[:half], y[:half]).predict_proba(X[half:]) for name, model in fitted.items()}
    losses = {name: log_loss(y[half:], found) for name, found in probs.items()}
    assert losses["ours"] < log_loss(y[half:], clone(estimator).fit(X[:half], y[:half]).predict_proba(X[half:]))
    assert losses["ours"] <= 1.01 * min(losses["sigmoid"], losses["isotonic"]), losses


def test_rows_that_a_tree_knows_by_heart_do_not_deceive_it() -> None:
    """A tree is certain and right on its own rows; held-out folds show that it errs, and confidences say so."""
    X, y = make_classification(2000, 10, flip_y=0.3, random_state=1)
    model = CalibratedClassifier(DecisionTreeClassifier(random_state=0), ensemble=False).fit(X[:1000], y[:1000])
    assert (model.estimators_[0].predict_proba(X[:1000]).max(1) == 1).all()
    probs = model.predict_proba(X[1000:])
    assert probs.max(1).mean() == pytest.approx((model.predict(X[1000:]) == y[1000:]).mean(), abs=0.05)


def test_a_fitted_estimator_is_calibrated_on_other_rows() -> None:
    """`prefit` leaves the estimator alone, also where rows lack one of its classes, and a frame keeps its names."""
    X, y = load_digits(return_X_y=True, as_frame=True)
    words = np.array([f"digit {label}" for label in y])
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=100, max_iter=200, tol=1e-2))
    estimator.fit(X[:600], words[:600])
    few = (y[600:1200] != 9).to_numpy()
    model = CalibratedClassifier(estimator, cv="prefit").fit(X[600:1200][few], words[600:1200][few])
    assert model.estimators_[0] is estimator
    assert list(model.classes_) == [f"digit {i}" for i in range(10)]
    probs = [one.predict_proba(X[1200:]) for one in (estimator, model)]
    before, after = (log_loss(words[1200:], one, labels=model.classes_) for one in probs)
    assert np.isfinite(after)
    assert isinstance(X, pd.DataFrame)
    assert before > 0


def test_a_decision_function_is_enough() -> None:
    """Margins of a linear machine become probabilities."""
    X, y = datasets()["two classes"]
    model = CalibratedClassifier(make_pipeline(StandardScaler(), LinearSVC()), ensemble=False).fit(X[:1500], y[:1500])
    margins = model.estimators_[0].decision_function(X[1500:])
    probs = model.predict_proba(X[1500:])[:, 1]
    assert np.corrcoef(np.argsort(np.argsort(margins)), np.argsort(np.argsort(probs)))[0, 1] > 0.99
    assert log_loss(y[1500:], probs) < 0.5


def test_few_rows_carry_a_cautious_temperature() -> None:
    """Below 100 rows nothing else is fitted."""
    X, y = make_classification(60, random_state=0)
    assert isinstance(CalibratedClassifier(GaussianNB()).fit(X, y).calibrator_, ShrunkenTemperature)


def test_it_goes_through_model_selection_with_groups_and_weights() -> None:
    """Cross-validation clones it; groups stay in one fold and weights reach estimator and calibrator."""
    X, y = make_classification(400, flip_y=0.2, random_state=0)
    assert cross_val_score(CalibratedClassifier(GaussianNB()), X, y, scoring="neg_log_loss").mean() > -0.7
    weights = np.where(y == 1, 5.0, 1.0)
    plain = CalibratedClassifier(GaussianNB()).fit(X, y)
    weighted = CalibratedClassifier(GaussianNB()).fit(X, y, groups=np.arange(400) // 2, sample_weight=weights)
    assert weighted.predict_proba(X)[:, 1].mean() > 0.1 + plain.predict_proba(X)[:, 1].mean()
    assert weighted.predict_proba(X)[:, 1].mean() == pytest.approx(weights @ y / weights.sum(), abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "labels", "words"),
    [
        ({"method": "platt"}, [0, 1] * 10, "method must be 'auto' or one of affine"),
        ({}, [0] * 20, "one class"),
        ({"cv": "prefit"}, [0, 1] * 10, "needs an estimator"),
        ({"estimator": SVC(decision_function_shape="ovo")}, [0, 1, 2, 0] * 5, "pairs of classes"),
        ({}, [0] * 19 + [1], "has 1 row"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(arguments: Any, labels: Any, words: str) -> None:
    """Each says what is needed."""
    with pytest.raises(ValueError, match=words):
        CalibratedClassifier(**arguments).fit(np.random.default_rng(0).random((20, 3)), labels)
