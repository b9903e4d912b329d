"""Checks of answers and labels alone, for networks and for scores without one.

Answers that are probabilities already, labels instead of answers, rows that the model knows by heart, and answers that
tell nothing of the labels. None of them needs the network or loads PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from fedlas.contract.profiles import Notice
from fedlas.data.dataset import Integers
from fedlas.preconditions.trials import (
    Answers,
    Examined,
    chance_of_gain,
    class_frequencies,
    matched_loss,
    row_losses,
)

#: A class that all rows get is suspicious below this share of labels.
COMMON_CLASS = 0.5
#: Information (share of the labels' entropy) that is none; the level at which a loss is worse than the frequencies'.
_NO_INFORMATION = 0.02
_WORSE = 1e-4
#: The gain in log-likelihood that chance explains; the kappa that answers of absurd confidence have at least.
_CHANCE = 3.0
_SATURATED = 0.04
#: Scores that are compared with the class frequencies, and those whose best temperature is sought in a hundred passes.
_MAX_SCORES = 4_000_000
_MAX_MATCHED = 200_000
_MIN_MATCHED = 50
#: How far the scores of a row may sum to something else than 1; rows with which no scores do so by chance.
_MAX_ROUNDING = 1e-4
_MIN_ROWS = 10
#: Fitting stops once all rows are fitted about alike, so of rows that trained none is wrong, and the worst hundredth
#: has 2 to 20 % of the log loss. Of unseen rows a few lie near a border, and have 36 to 100 %, but for tables without
#: noise. Of 286 held-out sets 0.3 % are accused, of 120 sets that trained 70 % (200 rows each: benchmarks.leaks).
_MIN_LEARNT = 200
_LOSS_OF_WORST = 0.15
#: A smaller loss is rounding, or a saturated model's.
_MIN_LOSS = 1e-6


def learnt_by_heart(examined: Answers) -> list[Notice]:
    """`training_rows`, if all rows are right and about equally so, as only rows that trained are."""
    rows = np.arange(len(examined.targets))
    losses = -log_softmax(np.nan_to_num(examined.logits.astype(np.float64)), axis=1)[rows, examined.targets]
    worst = np.sort(losses)[-len(rows) // 100 :].sum()
    wrong = (examined.logits.argmax(axis=1) != examined.targets).any()
    guessed = np.bincount(examined.targets).max() > 0.9 * len(rows)  # to be right on all of these is no feat
    few = len(rows) < _MIN_LEARNT or examined.dataset.seen_by_model == "unknown"  # of these nothing is claimed
    if few or wrong or guessed or losses.mean() < _MIN_LOSS or worst > _LOSS_OF_WORST * losses.sum():
        return []
    return [
        Notice(
            code="training_rows",
            message=f"The model was probably trained on these rows: all {len(rows):,} calibration rows are right, with "
            f"a log loss of {losses.mean():.3g}, and no row is much less sure than the others, as some unseen rows "
            "always are. Nothing that is measured on such rows holds for new ones: send rows that it has not seen, or "
            "mark those that it has seen as train in a column `split`.",
            evidence={"rows": len(rows), "nll": float(losses.mean()), "share_of_worst": float(worst / losses.sum())},
            severity="error",
        )
    ]


def one_hot_answers(examined: Answers) -> list[Notice]:
    """`one_hot_answers`, if the scores are two numbers, the larger once in each row, as of labels."""
    largest = examined.logits == examined.logits.max()
    if len(largest) < _MIN_ROWS or len(np.unique(examined.logits)) != 2 or (largest.sum(axis=1) != 1).any():
        return []
    return [
        Notice(
            code="one_hot_answers",
            message=f"In all {len(examined.targets):,} calibration rows one class has all of the probability: these "
            "are labels, and no calibrator can tell a sure answer from an unsure one. Send what `predict_proba` gives, "
            "or logits, if the model has them.",
            evidence={"rows": len(examined.targets)},
        )
    ]


def softmax_twice(examined: Answers) -> list[Notice]:
    """`softmax_twice`, if in every row the scores lie between 0 and 1 and sum to 1, as no logits do."""
    scores = examined.logits.astype(np.float64)
    if len(scores) < _MIN_ROWS or not (np.abs(scores.sum(axis=1) - 1) <= _MAX_ROUNDING).all() or scores.min() < 0:
        return []
    what, remedy = "logits", "send them as `probabilities`"
    if isinstance(examined, Examined):
        what, remedy = "scores before the softmax at the end of the graph", "export those before the first softmax"
    most = np.e / (np.e + examined.num_classes - 1)
    return [
        Notice(
            code="softmax_twice",
            message=f"The {what} are probabilities already: in all {len(scores):,} calibration rows they lie between 0 "
            f"and 1 and sum to 1. So the softmax is taken twice, and no answer can be surer than {100 * most:.1f} %: "
            f"{remedy}.",
            evidence={"rows": len(scores), "most_confidence": round(float(most), 6)},
            severity="error",
        )
    ]


def worse_than_frequencies(examined: Answers) -> Iterator[Notice]:
    """`worse_than_frequencies`, if answers tell nothing of the labels, and are surer than the class frequencies."""
    answered = examined.logits.argmax(axis=1)
    if _kappa(answered, examined.targets, examined.num_classes) > _SATURATED:
        return
    frequencies = class_frequencies(examined.targets, examined.num_classes)
    rows = _some(len(examined.targets), max(_MIN_MATCHED, _MAX_SCORES // examined.num_classes))
    logits, targets = examined.logits[rows], examined.targets[rows]
    known = -np.log(frequencies)[targets]
    own = -log_softmax(np.nan_to_num(logits.astype(np.float64)), axis=1)[np.arange(len(rows)), targets]
    if chance_of_gain(own - known) >= _WORSE or _tell(logits, targets, frequencies):
        return
    accuracy = float((answered == examined.targets).mean())
    yield Notice(
        code="worse_than_frequencies",
        message=f"the answers tell nothing of the labels: their log loss is {own.mean():.3g}, that of the class "
        "frequencies "
        f"{known.mean():.3g} (accuracy {100 * accuracy:.1f} %); check that labels stand "
        "beside their rows, and how the inputs are prepared",
        evidence={"nll": float(own.mean()), "frequencies_nll": float(known.mean()), "accuracy": accuracy},
        severity="error",
    )


def _some(count: int, most: int) -> Integers:
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def _tell(logits: NDArray[np.floating], targets: Integers, frequencies: NDArray[np.float64]) -> bool:
    """True if answers explain the labels at their best temperature, or by the frequencies of the classes."""
    rows = _some(len(targets), max(_MIN_MATCHED, _MAX_MATCHED // len(frequencies)))
    logits, targets = logits[rows], targets[rows]
    known = float(-np.log(frequencies)[targets].mean())
    # Even a good classifier says little about a rare class: there, what chance does not explain is enough.
    little = _CHANCE / len(targets) if frequencies.max() > COMMON_CLASS else _NO_INFORMATION * known
    losses = float(row_losses(logits, targets, frequencies).mean()), matched_loss(logits, targets, frequencies)
    return min(losses) < known - little


def _kappa(answered: Integers, targets: Integers, num_classes: int) -> float:
    """Cohen's kappa, which absurdly confident answers (naive Bayes) may have although no temperature mends them."""
    shares = [np.bincount(classes, minlength=num_classes) / len(targets) for classes in (answered, targets)]
    chance = float(shares[0] @ shares[1])
    return (float((answered == targets).mean()) - chance) / (1 - chance) if chance < 1 else 0.0
