"""A curve from one score to the probability of being right: monotone, piecewise linear in log-odds, with a band.

Members are the calibrators of two classes over two scales of the score, the score itself and, of scores between 0 and
1, its log-odds; they are pooled by likelihood on rows that none was fitted on, together with the plain share of right
rows, which holds where rows are few. The pool is read off at a few knots.

The band is exact at each score by itself for a probability that grows with the score: rows just below a score are right
less often than rows at it, those just above more often, so that Clopper and Pearson's bounds of such blocks bound it.
Between knots its lower end is that of the knot before, its upper end that of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedlas.calibrators import AffineScaling, BetaScaling, IsotonicScaling, QuadraticScaling
from fedlas.calibrators.base import LogitsCalibrator, pair
from fedlas.calibrators.pool import mixture_weights
from fedlas.guarantees.guarantees import band_at, upper_bound
from fedlas.metrics.statistics import Floats, Ints
from fedlas.race.results import make_folds
from fedlas.scores.promise import effective_counts

MAX_KNOTS = 64
NUM_FOLDS = 5
#: Kinds of members, and the nats of likelihood by which each must be better than a line to be believed as much.
_KINDS: dict[type[LogitsCalibrator], float] = {
    AffineScaling: 0.0,
    BetaScaling: 1.0,
    QuadraticScaling: 1.0,
    IsotonicScaling: 2.0,
}
#: Rows of each block whose share of right ones bounds the probability beside it.
_BLOCKS = (30, 100, 300, 1000, 3000)
BAND_LEVEL = 0.1
#: Scores closer to 0 and 1 than float64 can tell: at 1e-6 naive Bayes on spam, nine in ten of whose scores are nearer
#: to 1, lost 0.13 of NLL.
_EDGE = 1e-15
#: Scores further from the median, in quarters of the range of the middle 80 %, count as if they were as far.
_FAR = 20.0
#: A share of right rows is taken with so many rows more, half of which are right.
_PRIOR_ROWS = 2.0
#: The weights of highest likelihood count like their rows, those by the evidence of each member alone like so many: of
#: 100 rows of a judge that is a line, pools by likelihood alone were worse than the line by over 1 % in a quarter.
_PRIOR_ROWS_OF_POOL = 300.0


@dataclass(frozen=True)
class Curve:
    """Log-odds of being right at knots of a score, between them straight, beyond them constant.

    Attributes:
        knots: (J,) ascending; log_odds, low, high: (J,) there, the last two as probabilities.
        missing: log-odds of a row without a score.
    """

    knots: Floats
    log_odds: Floats
    low: Floats
    high: Floats
    missing: float

    def __call__(self, scores: Floats) -> Floats:
        """Log-odds (N,) of scores (N,), NaN where there is none."""
        return np.where(np.isnan(scores), self.missing, np.interp(scores, self.knots, self.log_odds))

    def band(self, scores: Floats) -> tuple[Floats, Floats]:
        """Bounds (N,) of the probabilities; those of a missing score are 0 and 1."""
        rising = bool(self.log_odds[-1] >= self.log_odds[0])
        return band_at(scores, self.knots, self.low, self.high, rising=rising)


def sigmoid(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def row_losses(log_odds: Floats, right: Ints) -> Floats:
    """The NLL (N,) of each row."""
    return np.asarray(np.logaddexp(0.0, np.where(right == 1, -log_odds, log_odds)))


def share_log_odds(right: Ints, weights: Floats) -> float:
    """Log-odds of the share of right rows, drawn a little to one half; 0 without rows."""
    share = (weights @ right + _PRIOR_ROWS / 2) / (weights.sum() + _PRIOR_ROWS)
    return float(np.log(share / (1 - share)))


@dataclass(frozen=True)
class Evidence:
    """Scores (N,) of which some may be NaN, `right` (N,) 0 or 1, groups (N,) or None, and weights (N,) of mean 1."""

    scores: Floats
    right: Ints
    groups: Ints | None
    weights: Floats

    def __getitem__(self, rows: Ints) -> Evidence:
        groups = None if self.groups is None else self.groups[rows]
        return Evidence(self.scores[rows], self.right[rows], groups, self.weights[rows])

    def folds(self, seed: int) -> list[Ints]:
        return make_folds(self.right, groups=self.groups, seed=seed, num_folds=NUM_FOLDS)


def rises(evidence: Evidence) -> bool:
    """True where higher scores are right more often, by the sign of a rank correlation."""
    return rank_score(evidence) >= 0


def rank_score(evidence: Evidence) -> float:
    """The rank correlation of score and being right in standard errors (Mann and Whitney 1947)."""
    from scipy.stats import rankdata

    known = ~np.isnan(evidence.scores)
    right, ranks = evidence.right[known], rankdata(evidence.scores[known])
    count, ones = len(right), int(right.sum())
    spread = float(ranks.var()) * ones * (count - ones) / max(count - 1, 1)
    return 0.0 if spread == 0 else float((ranks[right == 1].sum() - ones * ranks.mean()) / np.sqrt(spread))


def fit_curve(evidence: Evidence, *, seed: int = 0) -> tuple[Curve, Floats]:
    """A curve of these rows, and the log-odds (N,) that curves of other rows give them."""
    folds = evidence.folds(seed)
    rows = np.arange(len(evidence.right))
    # Of a constant and every calibrator over every scale.
    costs = np.array([0.0, *list(_KINDS.values()) * len(_scales(evidence.scores))])
    held_out = np.empty((len(rows), len(costs)))
    missing = np.empty(len(rows))
    for fold in folds:
        others = evidence[np.delete(rows, fold)] if len(folds) > 1 else evidence
        held_out[fold] = np.stack([sigmoid(member(evidence.scores[fold])) for member in _members(others, evidence)], 1)
        missing[fold] = _missing(others)
    known = ~np.isnan(evidence.scores)
    true = np.where(evidence.right[:, None] == 1, held_out, 1 - held_out)

    def weights_of(chosen: Ints) -> Floats:
        chosen = chosen[known[chosen]]
        shares = evidence.weights[chosen]
        count = float(shares.sum())
        if count == 0:
            return np.full(true.shape[1], 1 / true.shape[1])
        found = mixture_weights(true[chosen], shares / count)
        losses = costs - shares @ np.log(true[chosen])
        likelihood = np.exp(losses.min() - losses)
        return np.asarray(
            (count * found + _PRIOR_ROWS_OF_POOL * likelihood / likelihood.sum()) / (count + _PRIOR_ROWS_OF_POOL)
        )

    pooled = np.empty(len(rows))
    for fold in folds:
        pooled[fold] = held_out[fold] @ weights_of(np.delete(rows, fold) if len(folds) > 1 else rows)
    members, weights = _members(evidence, evidence), weights_of(rows)

    def pool(scores: Floats) -> Floats:
        return np.stack([sigmoid(member(scores)) for member in members], axis=1) @ weights

    curve = read_off(evidence, pool, sign=1 if rises(evidence) else -1)
    return curve, np.where(known, np.log(pooled / (1 - pooled)), missing)


_Member = Callable[[Floats], Floats]


def _scales(scores: Floats) -> list[_Member]:
    """Maps from a score to numbers of a size that calibrators know, made of all scores and no label."""
    known = scores[~np.isnan(scores)]
    if len(known) == 0:
        return [np.zeros_like]
    least, middle, most = np.quantile(known, [0.1, 0.5, 0.9])
    spread = float(most - least) or float(known.std()) or 1.0
    # A sentinel of -999, or a single score of 1e6, must not be what the others are measured by.
    scales: list[_Member] = [lambda values: np.clip(4 * (values - middle) / spread, -_FAR, _FAR)]
    if known.min() >= 0 and known.max() <= 1:
        scales.append(lambda values: np.log(np.clip(values, _EDGE, 1 - _EDGE) / np.clip(1 - values, _EDGE, 1 - _EDGE)))
    return scales


def _members(fitted_on: Evidence, scaled_on: Evidence) -> list[_Member]:
    """The plain share of right rows, and each calibrator over each scale, fitted; direction is that of the rows."""
    known = np.flatnonzero(~np.isnan(fitted_on.scores))
    rows = fitted_on[known]
    constant = share_log_odds(rows.right, rows.weights)
    sign = 1.0 if rises(scaled_on) else -1.0
    members: list[_Member] = [lambda scores: np.full(len(scores), constant)]
    for scale in _scales(scaled_on.scores):
        for kind in _KINDS:
            if len(rows.right) == 0 or rows.right.min() == rows.right.max():
                members.append(members[0])
                continue
            fitted = kind().fit(pair(sign * scale(rows.scores)), rows.right, weights=rows.weights)
            members.append(_of_pair(fitted, scale, sign))
    return members


def _of_pair(calibrator: LogitsCalibrator, scale: _Member, sign: float) -> _Member:
    def log_odds(scores: Floats) -> Floats:
        calibrated = calibrator(pair(np.nan_to_num(sign * scale(scores))))
        return np.asarray(calibrated[:, 1] - calibrated[:, 0])

    return log_odds


def _missing(evidence: Evidence) -> float:
    """Log-odds of a row without a score, from those that have none; from all where none has none."""
    gone = np.isnan(evidence.scores)
    rows = evidence[np.flatnonzero(gone)] if gone.any() else evidence
    return share_log_odds(rows.right, rows.weights)


def read_off(evidence: Evidence, pool: _Member, *, sign: int) -> Curve:
    """A map from scores to probabilities at knots, with its band; `sign` says whether higher scores are better.

    Knots are all scores where they are few, else evenly spaced among the rows.
    """
    known = evidence[np.flatnonzero(~np.isnan(evidence.scores))]
    knots = np.unique(known.scores)
    if len(knots) == 0:
        knots = np.zeros(1)
    if len(knots) > MAX_KNOTS:
        knots = np.unique(np.quantile(known.scores, np.linspace(0, 1, MAX_KNOTS), method="nearest"))
    probs = np.maximum.accumulate(pool(knots)[::sign])[::sign]
    low, high = _band(known, knots, sign) if len(known.right) else (np.zeros(1), np.ones(1))
    low, high = np.minimum(low, probs), np.maximum(high, probs)
    return Curve(knots, np.log(probs / (1 - probs)), low, high, _missing(evidence))


def _band(evidence: Evidence, knots: Floats, sign: int) -> tuple[Floats, Floats]:
    """Bounds (J,) at each knot; blocks hold whole runs of equal scores, so that no order of the file decides."""
    order = np.argsort(sign * evidence.scores, kind="stable")
    rows, scores = evidence[order], sign * evidence.scores[order]
    sizes = [size for size in _BLOCKS if size <= len(scores)] or [len(scores)]
    level = BAND_LEVEL / 2 / len(sizes)
    low, high = np.zeros(len(knots)), np.ones(len(knots))
    for place, knot in enumerate(sign * knots):
        # At the score or worse, and at it or better: equal scores belong to both.
        ends = int(np.searchsorted(scores, knot, side="right")), int(np.searchsorted(scores, knot, side="left"))
        for size in sizes:
            if ends[0] >= size:
                begin = int(np.searchsorted(scores, scores[ends[0] - size], side="left"))
                below = rows[np.arange(begin, ends[0])]
                low[place] = max(low[place], 1 - _upper(1 - below.right, below, level))
            if ends[1] + size <= len(scores):
                end = int(np.searchsorted(scores, scores[ends[1] + size - 1], side="right"))
                above = rows[np.arange(ends[1], end)]
                high[place] = min(high[place], _upper(above.right, above, level))
    return low, high


def _upper(hits: Ints, block: Evidence, level: float) -> float:
    weights = None if (block.weights == 1).all() else block.weights
    return float(upper_bound(*effective_counts(hits, block.groups, weights), level))
