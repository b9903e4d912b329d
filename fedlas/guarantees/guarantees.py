"""Guarantees of a served model: thresholds for `max_error` and prediction sets for `coverage`.

They rest on upper bounds of the error rate among confident rows that are all valid together (Learn then Test), made of
Clopper and Pearson's bound of a binomial share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.contract.profiles import GuaranteesDocument
from fedlas.documents import as_json
from fedlas.guarantees.typicality import CLASS_LEVELS, LEVELS, MARGIN, Quantiles
from fedlas.metrics.statistics import Floats, Ints, check_groups, check_level, check_probs, check_rows


def upper_bound(successes: ArrayLike, trials: ArrayLike, level: float) -> Floats:
    """The share p at which so few successes have probability `level`: P(Bin(n, p) <= x) = level.

    Clopper and Pearson's one-sided bound (Biometrika 1934): it lies below the true share in at most `level` of all
    draws. `x` and `n` need not be whole, since effective numbers of rows are not (Korn and Graubard 1998). No trials
    give 1.

    Raises:
        ValueError: successes outside 0..trials, or `level` outside (0, 1).

    >>> round(float(upper_bound(0, 100, 0.05)), 6)  # 1 - 0.05 ** (1 / 100)
    0.029513
    """
    # Loaded where bounds are fitted: serving only reads them, and SciPy would cost each of its processes 25 MB.
    from scipy.special import betainccinv

    x, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    if not (np.all(x >= 0) and np.all(x <= n)):
        raise ValueError("successes must lie in 0..trials")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    bounded = x < n
    return np.where(bounded, betainccinv(x + 1, np.where(bounded, n - x, 1), level), 1.0)


def band_at(positions: Floats, knots: Floats, low: Floats, high: Floats, *, rising: bool) -> tuple[Floats, Floats]:
    """Bounds (N,) of a monotone curve that has bounds (J,) at ascending knots; those of NaN are 0 and 1.

    Beyond the knots, and between them, a bound is that of the nearest knot that monotony lets speak.

    >>> band_at(np.array([0.5, 9.0]), np.array([0.0, 1.0]), np.array([0.1, 0.4]), np.array([0.3, 0.9]), rising=True)
    (array([0.1, 0.4]), array([0.9, 1. ]))
    """
    before = np.searchsorted(knots, positions, side="right")  # knots at or below
    after = np.searchsorted(knots, positions, side="left")  # the first at or above
    lowest, highest = np.append(0.0, low), np.append(high, 1.0)
    if not rising:
        before, after, lowest, highest = after, before, np.append(low, 0.0), np.append(1.0, high)
    gone = np.isnan(positions)
    return np.where(gone, 0.0, lowest[before]), np.where(gone, 1.0, highest[after])


Bools = NDArray[np.bool_]
#: More would allow a finer choice of threshold and make every bound wider (they share δ).
NUM_THRESHOLDS = 20


def _counts(blocks: Ints, num_blocks: int, kept: Bools, wrong: Bools, groups: Ints | None) -> tuple[Floats, Floats]:
    """Errors and rows of each block; effective numbers where rows have groups."""
    n = np.bincount(blocks[kept], minlength=num_blocks).astype(np.float64)
    e = np.bincount(blocks[kept & wrong], minlength=num_blocks).astype(np.float64)
    if groups is None:
        return e, n
    cells, cell = np.unique(np.stack([blocks[kept], groups[kept]]), axis=1, return_inverse=True)
    size = np.bincount(cell.ravel(), minlength=cells.shape[1]).astype(np.float64)
    bad = np.bincount(cell.ravel(), weights=wrong[kept], minlength=cells.shape[1])

    def total(values: Floats) -> Floats:
        return np.bincount(cells[0], weights=values, minlength=num_blocks).astype(np.float64)

    rate = e / np.maximum(n, 1)
    effective = n**2 / np.maximum(total(size**2), 1)  # Kish
    scatter = total((bad - rate[cells[0]] * size) ** 2)  # (n · standard error of the rate)²
    seen = np.divide(rate * (1 - rate) * n**2, scatter, out=np.full(num_blocks, np.inf), where=scatter > 0)
    effective = np.minimum(effective, np.where(e > 0, seen, np.inf))
    return rate * effective, effective


Shares = float | Mapping[str, float]
#: In a mapping, every class that is not named (unless a class is really called so).
EVERY_CLASS = "class"


class Unreachable(ValueError):
    """No threshold or set keeps the guarantee; `reachable` is the nearest value that one keeps."""

    def __init__(self, message: str, reachable: float) -> None:
        super().__init__(message)
        self.reachable = reachable


@dataclass(frozen=True)
class Guarantees:
    """Bounds and quantiles of the guarantee rows; `as_dict` and `from_dict` carry them as JSON.

    Attributes:
        num_rows: how many guarantee rows there were; `num_groups` of independent groups, if rows had groups.
        delta: each of the two kinds of `max_error` (overall, by class) fails with at most this probability.
        thresholds: confidences (M,) ascending; the lowest answers everything.
        bounds: upper bounds (M,) of the error rate among rows at or above each threshold, all valid together.
        class_bounds: the same for each true class (K, M).
        answered_shares: the share (M,) of the guarantee rows that each threshold answers; None in earlier versions.
    """

    class_names: tuple[str, ...]
    num_rows: int
    num_groups: int | None
    delta: float
    thresholds: Floats
    bounds: Floats
    class_bounds: Floats
    quantiles: Quantiles
    class_quantiles: tuple[Quantiles, ...]
    answered_shares: Floats | None = None

    @classmethod
    def fit(
        cls,
        probs: ArrayLike,
        targets: ArrayLike,
        *,
        class_names: Sequence[str],
        groups: ArrayLike | None = None,
        delta: float = 0.05,
    ) -> Guarantees:
        """Fit on probabilities (N, K) and class indices (N,) of the guarantee rows; nothing is random.

        Rows of one group are not independent: error bounds then take Kish's effective number of rows (as if all rows
        of a group shared one fate), or the number that the observed scatter of the groups gives if that is smaller,
        in the exact binomial bound, which is exact for groups of one size and close otherwise; coverage leaves room
        for a whole new group, as large as the largest seen.

        By class: the bound of the worst class needs no correction for the number of classes (the claim is that all
        hold, an intersection-union test). A mapping that treats classes differently holds with 1 - δ by itself.

        Raises:
            ValueError: shapes do not fit, probabilities or targets are none, names are not K, δ outside (0, 1).
        """
        rows, labels = check_rows(probs, targets)
        check_level(delta)
        if len(class_names) != rows.shape[1]:
            raise ValueError(f"class_names has {len(class_names)} names, probs {rows.shape[1]} columns")
        group_ids = check_groups(groups, len(rows))
        # Serving compares float32 confidences with a threshold: two that are equal there must be equal here.
        confidences = rows.max(axis=1).astype(np.float32).astype(np.float64)
        # Just above the confidences at evenly spaced ranks, and 0, which answers everything.
        ranks = len(confidences) * np.arange(1, NUM_THRESHOLDS) // NUM_THRESHOLDS
        thresholds = np.unique(np.append(np.round(np.sort(confidences)[::-1][ranks] + MARGIN, 9), 0.0))
        answered, wrong = confidences >= thresholds[:, None], rows.argmax(axis=1) != labels

        def bounds(blocks: Ints, num_blocks: int) -> Floats:
            """Bounds of the error rate among the answered rows of each block (num_blocks, M), rounded up."""
            counts = [_counts(blocks, num_blocks, kept, wrong, group_ids) for kept in answered]
            errors, trials = (np.stack(part, axis=1) for part in zip(*counts, strict=True))
            above: Floats = np.ceil(1e6 * upper_bound(errors, trials, delta / NUM_THRESHOLDS)) / 1e6
            return np.minimum(1, above)

        own = 1 - rows[np.arange(len(rows)), labels]
        return cls(
            class_names=tuple(class_names),
            num_rows=len(rows),
            num_groups=None if group_ids is None else int(group_ids.max()) + 1,
            delta=float(delta),
            thresholds=thresholds,
            bounds=bounds(np.zeros_like(labels), 1)[0],
            class_bounds=bounds(labels, rows.shape[1]),
            answered_shares=np.round(answered.mean(axis=1), 6),
            quantiles=Quantiles.fit(own, _room(group_ids), LEVELS),
            class_quantiles=tuple(
                Quantiles.fit(own[of], _room(None if group_ids is None else group_ids[of]), CLASS_LEVELS)
                for of in (labels == k for k in range(rows.shape[1]))
            ),
        )

    def threshold_for(self, max_error: Shares) -> float:
        """The lowest confidence at which answers keep the guarantee.

        A number bounds the share of wrong answers among all answered rows. A mapping bounds it among the answered
        rows of each true class that it names; `{"class": share}` names every class.

        Raises:
            Unreachable: no threshold keeps it.
            ValueError: a share outside 0..1, or an unknown class.
        """
        if isinstance(max_error, Mapping):
            classes, shares = self._by_class("max_error", max_error)
            bounds, limits = self.class_bounds[classes], shares[:, None]
        else:
            classes, limits = np.zeros(0, np.int64), np.array([[_share("max_error", max_error)]])
            bounds = self.bounds[None]
        kept = np.flatnonzero((bounds <= limits).all(axis=0))
        if len(kept):
            return float(self.thresholds[kept[0]])
        excess = bounds - limits
        nearest = int(excess.max(axis=0).argmin())
        worst = int(excess[:, nearest].argmax())
        reachable, asked = float(bounds[worst, nearest]), float(np.broadcast_to(limits, bounds.shape)[worst, nearest])
        who, basis = (
            "",
            f"{self.num_rows} guarantee rows" + (f" in {self.num_groups} groups" if self.num_groups else ""),
        )
        if len(classes):
            k = classes[worst]
            who = f" for class {self.class_names[k]!r} ({self.class_quantiles[k].num_rows} guarantee rows)"
        raise Unreachable(
            f"{basis} cannot promise with {1 - self.delta:.0%} probability that at most {asked:g} of the "
            f"answers{who} is wrong; the smallest share that can be promised is {reachable:.6f}",
            reachable,
        )

    def answered_share(self, threshold: float) -> float | None:
        """The share of the guarantee rows that one of the thresholds answers; None where it is not known."""
        places = np.flatnonzero(self.thresholds == threshold)
        return None if self.answered_shares is None or not len(places) else float(self.answered_shares[places[0]])

    def prediction_sets(self, probs: ArrayLike, coverage: Shares) -> Bools:
        """The prediction set of each row as a mask of classes: (N, K) for probabilities (N, K).

        A number is the probability that the set holds the true class. A mapping is that probability for rows of each
        true class that it names (`{"class": c}` names every class); a class that is not named is in the set only
        where it is the most probable one. A set may be empty: no class is then as likely as true classes usually are.

        Raises:
            Unreachable: too few rows for so high a coverage.
            ValueError: a level outside 0..1, an unknown class, or probabilities that are none.
        """
        rows = check_probs(probs)
        if rows.shape[1] != len(self.class_names):
            raise ValueError(f"probs must have {len(self.class_names)} columns, got {rows.shape[1]}")
        limits = self.check_coverage(coverage)
        most_probable = np.arange(rows.shape[1]) == rows.argmax(axis=1)[:, None]
        return np.where(np.isnan(limits), most_probable, 1 - rows <= limits)

    def check_coverage(self, coverage: Shares) -> Floats:
        """The largest score 1 - p (K,) with which each class is in a set; NaN where nothing is asked of a class.

        Raises:
            Unreachable, ValueError: as `prediction_sets`.
        """
        if not isinstance(coverage, Mapping):
            share = _share("coverage", coverage)
            return np.full(len(self.class_names), self._score("coverage", self.quantiles, share))
        classes, levels = self._by_class("coverage", coverage)
        limits = np.full(len(self.class_names), np.nan)
        # The class with the least room first, so that an error names it.
        for i in np.argsort([self.class_quantiles[k].reachable - c for k, c in zip(classes, levels, strict=True)]):
            k = int(classes[i])
            what = f"for the class {self.class_names[k]!r} coverage"
            limits[k] = self._score(what, self.class_quantiles[k], float(levels[i]))
        return limits

    def as_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = as_json(self)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Guarantees:
        """The guarantees that `as_dict` wrote, in this version or an earlier one; raises ValueError for other JSON."""
        document = GuaranteesDocument.read(content)
        return cls(
            class_names=tuple(document.class_names),
            num_rows=document.num_rows,
            num_groups=document.num_groups,
            delta=document.delta,
            thresholds=np.array(document.thresholds),
            bounds=np.array(document.bounds),
            class_bounds=np.array(document.class_bounds).reshape(len(document.class_names), -1),
            quantiles=Quantiles.of(document.quantiles),
            class_quantiles=tuple(map(Quantiles.of, document.class_quantiles)),
            answered_shares=None if document.answered_shares is None else np.array(document.answered_shares),
        )

    def _by_class(self, argument: str, shares: Mapping[str, float]) -> tuple[Ints, Floats]:
        unknown = sorted(set(shares) - {*self.class_names, EVERY_CLASS})
        if unknown or not shares:
            raise ValueError(
                f"{argument} must name classes of {list(self.class_names)} or {EVERY_CLASS!r} for every class, "
                f"got {unknown or 'none'}"
            )
        by_index = {
            k: _share(argument, shares[key])
            for k, name in enumerate(self.class_names)
            for key in (name if name in shares else EVERY_CLASS,)
            if key in shares and not (key == EVERY_CLASS != name and EVERY_CLASS in self.class_names)
        }
        return np.array(list(by_index), np.int64), np.array(list(by_index.values()))

    def _score(self, what: str, quantiles: Quantiles, coverage: float) -> float:
        score = quantiles.at(coverage)
        if score is None:
            raise Unreachable(
                f"{what} {coverage:g} cannot be promised from {quantiles.num_rows} guarantee rows; the largest "
                f"that can is {quantiles.reachable:.6f}",
                quantiles.reachable,
            )
        return score


def _share(argument: str, value: float) -> float:
    if isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{argument} must lie between 0 and 1, got {value!r}")
    return float(value)


def _room(groups: Ints | None) -> int:
    return 1 if groups is None or not len(groups) else int(np.bincount(groups).max())
