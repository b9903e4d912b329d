"""A classifier of scikit-learn with a calibrator behind it, fitted on rows that the classifier has not seen."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone  # type: ignore[import-untyped, unused-ignore]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, check_cv, cross_validate  # type: ignore[import-untyped, unused-ignore]
from sklearn.preprocessing import LabelEncoder  # type: ignore[import-untyped, unused-ignore]
from sklearn.utils import _safe_indexing, check_random_state, get_tags, indexable  # type: ignore[import-untyped, unused-ignore]
from sklearn.utils.multiclass import check_classification_targets  # type: ignore[import-untyped, unused-ignore]
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d, validate_data  # type: ignore[import-untyped, unused-ignore]

from fedlas.calibrators import CALIBRATORS, softmax
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.results import post_hoc_names

Floats = NDArray[np.float64]
#: A probability of 0 counts as this when its logarithm is taken.
_MIN_PROB = float(np.finfo(np.float32).tiny)


class CalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose probabilities are calibrated.

    Each row is answered once, by an estimator that was fitted on folds that do not hold it, and all these answers fit
    one calibrator. With `method="auto"` it is a pool: a mixture of all calibrators of `fedlas.calibrators` that suit
    the rows, by weights that are cross-fitted too; below 100 rows it is a temperature shrunk towards 1.

    Parameters
    ----------
    estimator : classifier, default=None
        With `predict_proba` or `decision_function`; None is a `LogisticRegression`.
    method : str, default="auto"
        `auto`, or the name of a calibrator (`fedlas.calibrators.CALIBRATORS`).
    cv : int, splitter, iterable or "prefit", default=5
        Folds of the cross-fitting; a number is at most the number of rows of the smallest class. `prefit`: the
        estimator is fitted already, and `fit` gets rows that it has not seen.
    ensemble : bool, default=True
        Whether the mean of the folds' estimators answers, or one that is fitted once more on all rows, which costs a
        fraction of the time. A mean is better for estimators that vary with their rows, such as trees.
    random_state : int, RandomState or None, default=0
        Of the folds, and of the estimator where that has none of its own.

    Attributes
    ----------
    estimators_ : those of the folds, or a single one.
    calibrator_ : the calibrator (`fedlas.calibrators.Calibrator`).
    classes_ : the classes, in the order of the columns of `predict_proba`.

    Notes
    -----
    `sample_weight` is taken among the parameters of `fit` by name. A row of weight 2 is not two rows: cross-fitting
    never has one of them in training and the other in calibration.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> calibrated = CalibratedClassifier(GaussianNB()).fit(X[:400], y[:400])
    >>> before, after = (-np.log(model.predict_proba(X[400:])[range(169), y[400:]]).mean()
    ...                  for model in (GaussianNB().fit(X[:400], y[:400]), calibrated))
    >>> bool(after < before / 2)
    True
    """

    estimators_: list[Any]
    classes_: NDArray[Any]

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: str = "auto",
        cv: Any = 5,
        ensemble: bool = True,
        random_state: int | None = 0,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.cv = cv
        self.ensemble = ensemble
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, groups: ArrayLike | None = None, **fit_params: Any) -> Self:
        """Fit the estimator and its calibrator.

        Parameters
        ----------
        X : rows, as the estimator takes them.
        y : labels (N,).
        groups : (N,), rows with equal values stay in one fold.
        **fit_params : for the estimator; `sample_weight` (N,) is for the calibrator too.
        """
        if self.method != "auto" and self.method not in CALIBRATORS:
            raise ValueError(f"method must be 'auto' or one of {', '.join(sorted(CALIBRATORS))}, got {self.method!r}")
        validate_data(self, X, y, skip_check_array=True)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        if len(y) == 0:
            raise ValueError("there are no rows to fit")
        check_classification_targets(y)
        X, y = indexable(X, y)
        encoder = LabelEncoder().fit(y)
        targets = encoder.transform(y).astype(np.int64)
        if len(encoder.classes_) < 2:
            raise ValueError(f"all labels are of one class, {encoder.classes_[0]!r}; at least two classes are needed")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if isinstance(self.cv, str) and self.cv == "prefit":
            targets = self._take_fitted(y)
            logits = _logits(self.estimators_[0], X, self.classes_)
        else:
            self.classes_ = encoder.classes_
            # The classifier's chance follows ours where its owner has not fixed it.
            copy = clone(LogisticRegression() if self.estimator is None else self.estimator)
            open_ends = [
                name for name, value in copy.get_params().items() if name.endswith("random_state") and value is None
            ]
            estimator = copy if self.random_state is None else copy.set_params(**dict.fromkeys(open_ends, seed))
            logits, members = self._cross_fitted(estimator, X, y, targets, groups, seed, fit_params)
            self.estimators_ = members if self.ensemble else [clone(estimator).fit(X, y, **fit_params)]
        self.calibrator_ = self._calibrator(logits, targets, groups, fit_params.get("sample_weight"), seed)
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Calibrated probabilities (N, K)."""
        check_is_fitted(self)
        answers = [softmax(self.calibrator_(_logits(one, X, self.classes_))) for one in self.estimators_]
        return np.asarray(np.mean(answers, axis=0))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class (N,)."""
        probs = self.predict_proba(X)
        return np.asarray(self.classes_[probs.argmax(axis=1)])

    def _take_fitted(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """Take the estimator as it is, and return the labels as indices of its classes."""
        if self.estimator is None:
            raise ValueError("cv='prefit' needs an estimator, which is fitted already")
        check_is_fitted(self.estimator)
        if not np.isin(y, self.estimator.classes_).all():
            raise ValueError("y has classes that the estimator does not know")
        self.estimators_, self.classes_ = [self.estimator], self.estimator.classes_
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _cross_fitted(
        self, estimator: Any, X: Any, y: Any, targets: NDArray[np.int64], groups: Any, seed: int, fit_params: Any
    ) -> tuple[Floats, list[Any]]:
        """Logits (N, K) of each row by an estimator that was fitted without it, and these estimators."""
        folds = [*check_cv(self._folds(targets, groups, seed), y, classifier=True).split(X, y, groups)]
        fits = cross_validate(
            estimator,
            X,
            y,
            cv=folds,
            params=fit_params,
            scoring=lambda *_: 0.0,
            return_estimator=True,
            error_score="raise",
        )
        logits = np.full((len(targets), len(self.classes_)), np.nan)
        for (_, held_out), member in zip(folds, fits["estimator"], strict=True):
            logits[held_out] = _logits(member, _safe_indexing(X, held_out), self.classes_)
        if np.isnan(logits).any():
            raise ValueError("cv leaves rows that are in no test fold, so nothing that has not seen them can answer")
        return logits, fits["estimator"]

    def _folds(self, targets: NDArray[np.int64], groups: Any, seed: int) -> Any:
        if not isinstance(self.cv, int):
            return self.cv
        sizes = np.bincount(targets)
        if min(self.cv, sizes.min()) < 2:
            raise ValueError(
                f"the class {self.classes_[sizes.argmin()]!r} has {sizes.min()} row, or cv={self.cv} is below 2: "
                "cross-fitting needs at least 2 folds and as many rows of each class"
            )
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        return kind(min(self.cv, sizes.min()), shuffle=True, random_state=seed)

    def _calibrator(self, logits: Floats, targets: NDArray[np.int64], groups: Any, weights: Any, seed: int) -> Any:
        selector = CalibratorSelector(
            targets,
            post_hoc_names(len(self.classes_), len(targets)) if self.method == "auto" else (self.method,),
            reads_features=False,
            groups=groups,
            weights=None if weights is None else np.asarray(weights, np.float64),
            seed=seed,
        )
        return selector.calibrate(logits).calibrator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(LogisticRegression() if self.estimator is None else self.estimator).input_tags
        return tags


def _logits(estimator: Any, X: Any, classes: NDArray[Any]) -> Floats:
    """Logits (N, K) of rows; a class that the estimator has not met is as unlikely as can be."""
    if hasattr(estimator, "predict_proba"):
        scores = np.log(np.maximum(np.asarray(estimator.predict_proba(X), np.float64), _MIN_PROB))
    else:
        if len(classes) > 2 and "ovo" in (value for value in estimator.get_params().values() if isinstance(value, str)):
            raise ValueError("decision_function_shape='ovo' scores pairs of classes; 'ovr' scores each class")
        scores = np.asarray(estimator.decision_function(X), np.float64)
        scores = np.stack([np.zeros_like(scores), scores], axis=1) if scores.ndim == 1 else scores
    if len(estimator.classes_) == len(classes):
        return np.asarray(scores)
    logits = np.full((len(scores), len(classes)), np.log(_MIN_PROB))
    logits[:, np.searchsorted(classes, estimator.classes_)] = scores
    return logits
