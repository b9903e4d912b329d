"""Results of a race: those of each candidate, and the finalists.

Scores on calibration rows, cross-fitting, and the calibrators that may compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import Calibrator, softmax
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.contract.events import CandidateEnded
from fedlas.data.dataset import Array
from fedlas.documents import as_json

if TYPE_CHECKING:
    import torch

    from fedlas.classifier import Classifier


from numpy.typing import ArrayLike

from fedlas import metrics
from fedlas.metrics.statistics import Ints, check_groups

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
#: Hyperparameters by name; a network that was made of others has their names, weights and cost.
Settings: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class CandidateResult:
    """One candidate on the calibration rows.

    Attributes:
        scope: `all`, `head` or `none` (post-hoc).
        calibration: after its calibrator and out-of-fold, None where it was not trained to the end.
        status: `finished`, `skipped` (budget), `eliminated` (not among the best of the first folds, of which
            alone its scores are), `dropped` (accuracy guard) or `diverged`.
    """

    name: str
    method: str
    hyperparameters: Settings
    scope: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    calibration: Mapping[str, float] | None = None
    calibrator: Calibrator | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields of a `CandidateSummary`, which are equal in every run of a race: the seconds are left out."""
        one = self.calibrator
        return {
            "name": self.name,
            "method": self.method,
            "hyperparameters": self.hyperparameters,
            "scope": self.scope,
            "status": self.status,
            "reason": self.reason,
            "calibration": self.calibration,
            "calibrator": None if one is None else {"name": one.name, "parameters": shown_parameters(one)},
        }

    @property
    def ended(self) -> CandidateEnded:
        """The data of the event that reports it."""
        content = as_json({**self.as_dict(), "seconds": round(self.seconds, 3)})
        return CandidateEnded.model_validate({name: content[name] for name in CandidateEnded.model_fields})


@dataclass(frozen=True)
class FedLASDiagnostics:
    """FedLAS on calibration rows that its networks have not seen, (N,) each; the norms are L1, the gates signs."""

    feature_norms: Doubles
    epsilon: Doubles
    gate: Doubles
    gate_before: Doubles
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class Finalist:
    """A network with its calibrator, scored on calibration rows and not yet judged.

    Attributes:
        held_out: calibrated logits (N, K) of the calibration rows, out-of-fold: no row is seen by its own network or
            calibrator.
        features: (N, D) of the calibration rows under this network.
        networks: how many an answer needs; heads on one body are one.
        diagnostics: of a network that was trained with FedLAS or FedLAS+.
        out_of_fold_logits: (N, K) of the calibration rows by the fold networks of a refit, without a calibrator.
    """

    classifier: Classifier
    calibrator: Calibrator
    result: CandidateResult
    held_out: Doubles
    features: Floats
    networks: int = 1
    diagnostics: FedLASDiagnostics | None = None
    out_of_fold_logits: Floats | None = None

    def probs(self, inputs: Sequence[Array], *, device: torch.device | str | None = None) -> Doubles:
        from fedlas.training.fit import predict_logits

        logits, features = predict_logits(self.classifier, inputs, device=device)
        return softmax(self.calibrator(logits, features))


@dataclass(frozen=True)
class RaceResult:
    """All candidates, and at most one finalist of each kind.

    Attributes:
        temperature: the plain temperature on the uploaded model, which every report shows.
        finalists: by the names of the gate: `post_hoc`, the uploaded model with the pool of calibrators; behind it,
            where it may move labels, `same_labels`, with a temperature; `trained`, the best candidate trained on all
            rows; and `average`, the pool of uploaded model and refits, where it may cost that much.
        base_logits: (N, K) of the uploaded model on the calibration rows.
        diagnostics: of the trained finalist if it is FedLAS, else of the best FedLAS candidate.
        out_of_fold: calibrated logits (N, K) of the calibration rows, cross-fitted, by `uploaded`, `temperature` and
            finalist.
        by_method: the same of the best candidate of each method, with a temperature, on `compared_rows` (M,): indices
            of the calibration rows of the folds that all candidates ran.
    """

    candidates: tuple[CandidateResult, ...]
    temperature: Calibrator
    finalists: Mapping[str, Finalist]
    base_logits: Floats
    notes: tuple[str, ...] = field(default=())
    diagnostics: FedLASDiagnostics | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    out_of_fold: Mapping[str, Doubles] = field(default_factory=dict)
    by_method: Mapping[str, Doubles] = field(default_factory=dict)
    compared_rows: NDArray[np.int64] = field(default_factory=lambda: np.arange(0))

    @property
    def post_hoc(self) -> Finalist:
        return self.finalists["post_hoc"]


_FOLDS = 5
#: Fewer calibration rows than this carry one number at most.
FEW_ROWS = 100
#: Richer calibrators are offered where they can be cross-fitted in seconds and have rows to learn from.
_ROWS_PER_CLASS = 10
_ISOTONIC_ROWS = 200
_MAX_MIXED_LOGITS = 5_000_000
_MAX_LOGITS = 1_500_000
_MAX_MATRIX_LOGITS = 500_000
_MAX_MATRIX_CLASSES = 100


@dataclass(frozen=True)
class CrossFitted:
    """A fitted calibrator, and the calibrated logits (N, K) of rows that it was not fitted on."""

    calibrator: Calibrator
    held_out: Doubles


def score(logits: ArrayLike, targets: Ints, weights: Doubles | None = None) -> dict[str, float]:
    """Scores of logits (N, K) that went through their calibrator, weighted by row but for the binned error."""
    probs = softmax(logits)
    return {
        "nll": float(np.average(metrics.row_scores(probs, targets, score="nll"), weights=weights)),
        "accuracy": accuracy(probs, targets, weights),
        "brier": float(np.average(metrics.row_scores(probs, targets, score="brier"), weights=weights)),
        "ece": metrics.ece(probs, targets),
    }


def accuracy(scores: ArrayLike, targets: Ints, weights: Doubles | None = None) -> float:
    """The (weighted) share of rows whose highest score (N, K) is that of their class."""
    return float(np.average(np.asarray(scores).argmax(axis=1) == targets, weights=weights))


def post_hoc_names(num_classes: int, num_rows: int, task: str = "multiclass") -> tuple[str, ...]:
    """Calibrators that may compete for so many classes and calibration rows; the temperature always comes first.

    Two classes get those of the log-odds. With more, per-class and matrix scaling need a few rows per class, and are
    left out where five cross-fits would take long.

    With few rows only a temperature is fitted, shrunk towards 1.

    >>> post_hoc_names(10, 40)
    ('shrunken_temperature',)
    >>> post_hoc_names(2, 1000, "binary")
    ('temperature', 'mixture', 'affine', 'beta', 'quadratic', 'spline', 'isotonic')
    >>> post_hoc_names(10, 1000, "multiclass")
    ('temperature', 'mixture', 'structured_vector', 'structured_matrix', 'one_vs_rest', 'isotonic')
    """
    if task == "binary" and num_classes != 2:
        raise ValueError(f"a binary task needs num_classes 2, got {num_classes}")
    if num_rows < FEW_ROWS:
        return ("shrunken_temperature",)
    few = num_rows * num_classes <= _MAX_LOGITS
    names = ["temperature", "mixture"] if num_rows * num_classes <= _MAX_MIXED_LOGITS else ["temperature"]
    if num_classes == 2:
        names += ["affine", "beta", "quadratic", "spline"] if few else ["affine", "beta"]
    elif few and num_rows >= _ROWS_PER_CLASS * num_classes:
        names += ["structured_vector"]
        if num_classes <= _MAX_MATRIX_CLASSES and num_rows * num_classes <= _MAX_MATRIX_LOGITS:
            names += ["structured_matrix", "one_vs_rest"]
    if few and num_rows >= _ISOTONIC_ROWS:
        names += ["isotonic"]
    return tuple(names)


def lone_temperature(num_rows: int, num_classes: int) -> tuple[str]:
    """The calibrator of a job that fits a temperature alone: `mixture`, or a plain temperature where that takes long.

    The likelihood of a plain temperature is ruled by a few sure errors, which soften every answer; no other fit of one
    number mended that without a higher NLL (measured once, benchmarks/README.md).

    >>> lone_temperature(1000, 10), lone_temperature(50_000, 1000)
    (('mixture',), ('temperature',))
    """
    return ("mixture" if num_rows * num_classes <= _MAX_MIXED_LOGITS else "temperature",)


def cross_fitted_logits(
    kind: type[Calibrator], logits: Doubles, targets: Ints, folds: Sequence[Ints], weights: Doubles | None = None
) -> Doubles:
    """Calibrated logits (N, K) of rows that were not fitted on: each fold by a fit on the rows outside of it."""
    calibrated = np.empty(np.shape(logits))
    for rows in folds:
        others = np.delete(np.arange(len(targets)), rows)
        others = others if len(others) else rows  # one row alone cannot be left out
        weighed = None if weights is None else weights[others]
        calibrated[rows] = kind().fit(logits[others], targets[others], weights=weighed)(logits[rows])
    return calibrated


def row_nll(logits: ArrayLike, targets: Ints) -> Doubles:
    return metrics.row_scores(softmax(logits), targets, score="nll")


def make_folds(targets: Ints, *, groups: ArrayLike | None = None, seed: int, num_folds: int = _FOLDS) -> list[Ints]:
    """Rows of each fold, ascending: each row is in exactly one, classes are spread evenly and groups stay whole.

    Groups are dealt out like cards, sorted by their rarest class and then by size, so a class with as many groups as
    folds is in every fold. With a single group there is nothing to keep apart, and rows are dealt instead.

    >>> [fold.tolist() for fold in make_folds(np.array([0, 0, 1, 1]), groups=[7, 7, 8, 8], seed=0)]
    [[0, 1], [2, 3]]
    """
    codes = group_codes(groups, len(targets))
    if codes.max() == 0:
        codes = np.arange(len(targets))
    sizes = np.bincount(codes)
    frequencies = np.bincount(targets)[targets]
    # The class of a group is that of its rarest row: the last one written wins.
    rarest = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-frequencies, kind="stable")
    rarest[codes[order]] = targets[order]
    dealt = np.lexsort((np.random.default_rng(seed).random(len(sizes)), -sizes, rarest))
    fold = np.empty(len(sizes), dtype=np.int64)
    fold[dealt] = np.arange(len(sizes)) % min(num_folds, len(sizes))
    return [np.flatnonzero(fold[codes] == i) for i in range(int(fold.max()) + 1)]


def group_codes(groups: ArrayLike | None, num_rows: int) -> Ints:
    """Groups as numbers 0, 1, …; without groups every row is its own."""
    codes = check_groups(groups, num_rows)
    return np.arange(num_rows) if codes is None else codes


def clearly_positive(gains: Doubles, clusters: Ints, standard_errors: float, weights: Doubles | None = None) -> bool:
    """True where the (weighted) mean gain exceeds so many standard errors, taken over whole clusters."""
    shares = np.full(len(gains), 1 / len(gains)) if weights is None else weights / weights.sum()
    mean = float(shares @ gains)
    centred = np.bincount(clusters, shares * (gains - mean))
    count = len(centred)
    error = float(np.sqrt(np.square(centred).sum() * count / max(count - 1, 1)))
    return mean > standard_errors * error and mean > 0
