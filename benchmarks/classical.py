"""Base models of scikit-learn as ONNX files that answer probabilities; it knows no data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.data.common import Rows, Split, missing


@dataclass(frozen=True)
class ClassicalBase:
    """A classifier with scikit-learn's defaults; `make(seed)` is the untrained classifier."""

    make: Callable[[int], Any]

    def onnx(self, split: Split, *, seed: int, name: str) -> bytes:
        """Trained on the train rows; the single input is `x`, the second output `probabilities`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # columns without spread and solvers that wanted more steps
            trained = self.make(seed).fit(split.train[0][0], split.train[1])
        if len(trained.classes_) != split.num_classes:
            raise ValueError(f"{name}: the train rows hold {len(trained.classes_)} of {split.num_classes} classes")
        return _exported(trained, split.train)


def _exported(trained: Any, rows: Rows) -> bytes:
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        raise missing("skl2onnx", "`pip install skl2onnx` brings it") from None
    types = [("x", FloatTensorType([None, rows[0][0].shape[1]]))]
    content: bytes = to_onnx(trained, initial_types=types, options={"zipmap": False}).SerializeToString()
    return content


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, random_state=seed)


def _boosting(seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(random_state=seed)


def _weighted_logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", max_iter=1000, random_state=seed)


def _bayes(seed: int) -> Any:
    from sklearn.naive_bayes import GaussianNB

    return GaussianNB()


CLASSICAL: dict[str, tuple[str, ClassicalBase]] = {
    "forest": ("random forest of 100 trees", ClassicalBase(_forest)),
    "boosting": ("gradient boosting", ClassicalBase(_boosting)),
    "logistic": ("class-weighted logistic regression", ClassicalBase(_weighted_logistic)),
    "bayes": ("Gaussian naive Bayes", ClassicalBase(_bayes)),
}
