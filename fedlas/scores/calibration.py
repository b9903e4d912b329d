"""The calibration of one score or several signals, from a table to a report: fit, judge, promise.

One score is fitted and promised on all rows: its map is monotone and changes no order, so that the rows that fitted it
may set the threshold. Several signals are fitted on a part of the rows and promised on the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.scores import (
    CurvePoint,
    MadeThreshold,
    ScorePromise,
    ScoreReport,
    ScoreServing,
    ScoreVerdict,
    SliceThreshold,
    WantedPromise,
)
from fedlas.data.labels import codes
from fedlas.errors import BadDataset
from fedlas.gate.gate import ledger_level
from fedlas.guarantees.guarantees import upper_bound
from fedlas.metrics.statistics import Floats, Ints
from fedlas.race.results import group_codes, make_folds
from fedlas.report.provenance import library_versions
from fedlas.scores.curve import BAND_LEVEL, Evidence, rank_score, row_losses, share_log_odds, sigmoid
from fedlas.scores.model import ScoreModel, fit_model
from fedlas.scores.promise import Accepted, Rows, accepted_with_recall, accepted_within, more_labels, reachable_error
from fedlas.scores.sentences import by_slice, judged, looked, population, promised, stands
from fedlas.scores.table import ScoreTable

#: A gain is shown where it exceeds so many standard errors (one-sided, 5 %), and planned for with a chance of 80 %.
_ERRORS_SHOWN = 1.64
_ERRORS_PLANNED = _ERRORS_SHOWN + 0.84
#: Where no more than so much of NLL could be gained, nothing is to be gained.
_NO_GAIN = 0.002
#: Folds out of five that only promise, where several signals are fitted.
_PROMISING_FOLDS = 2
_FOLDS = 5
#: A rank correlation below so many standard errors may be either way: both directions are paid for.
_SURE_DIRECTION = 3.3
_EDGE = 1e-6


@dataclass(frozen=True)
class ScoreCalibration:
    """A fitted model with its report."""

    model: ScoreModel
    report: ScoreReport

    @property
    def serving(self) -> ScoreServing:
        """The part that a server needs beside the graph."""
        curve = self.report.curve
        return ScoreServing(
            signals=list(self.model.signals),
            promise=self.report.promise,
            knots=[point.score for point in curve],
            low=[point.low for point in curve],
            high=[point.high for point in curve],
            rising=curve[-1].probability >= curve[0].probability,
            valid_for=self.report.valid_for,
        )


def calibrate_table(
    table: ScoreTable,
    wanted: WantedPromise | None = None,
    *,
    valid_for: str | None = None,
    seed: int = 0,
    looks_before: int = 0,
    earlier: Sequence[ScorePromise] = (),
    digests: Mapping[str, str] | None = None,
) -> ScoreCalibration:
    """Fit P(right | score), judge it by cross-fitting, and set the threshold of a promise.

    Args:
        wanted: at most 5 % errors at 95 % unless it says something else.
        looks_before: how often these rows were judged before; each look spends a part of the level.
        earlier: what was promised of these rows before and implies what is wanted: it still holds.
    """
    wanted = wanted or WantedPromise()
    if wanted.recall is not None and (table.groups is not None or table.weights is not None):
        found = "groups" if table.weights is None else "weights"
        raise BadDataset("bad_role", f"a recall can be promised of rows that count alike, and these have {found}")
    values = table.values
    groups = None if table.groups is None else codes(table.groups)
    weights = np.ones(len(table.right)) if table.weights is None else table.weights
    fitting, promising = _parts(table, groups, seed)
    on = None if groups is None else groups[fitting]
    fitted = fit_model(
        {name: column[fitting] for name, column in table.signals.items()},
        table.right[fitting],
        groups=on,
        weights=weights[fitting],
        seed=seed,
    )
    model, right = fitted.model, table.right[fitting]
    reference, before = _reference(values[fitting], right, weights[fitting], fitted.best_signal)
    verdict, needed = _verdict(
        row_losses(before, right) - row_losses(fitted.held_out, right), group_codes(on, len(right)), weights[fitting]
    )
    rows, rank = _promising(table, model, promising, groups)
    levels = _levels(rows, rank, wanted, looks_before)
    fresh = _promise(rows, table, promising, wanted, levels)
    made = [one for one in (fresh, *earlier) if one.accepted_rows is not None]
    promise = max(made, key=lambda one: (one.accepted_rows or 0) * (1 if wanted.recall is None else -1), default=fresh)
    return ScoreCalibration(
        model,
        ScoreReport(
            promise=promise,
            verdict=verdict,
            summary=[
                promise.sentence,
                *([by_slice(promise)] if promise.per_slice else []),
                *(
                    [promise.population]
                    if any(one.threshold is not None for one in (promise, *promise.per_slice))
                    else []
                ),
                *([stands(wanted)] if promise is not fresh else []),
                *([looked(looks_before, levels[0])] if looks_before and promise is fresh else []),
                judged(verdict, reference, needed),
                *table.warnings,
            ],
            needed_labels=needed,
            num_rows=len(table.right),
            num_right=int(table.right.sum()),
            outcomes=list(table.outcomes),
            signals=list(table.signals),
            influence=None
            if model.weights is None
            else dict(zip(model.signals, model.parts(values).std(axis=0).tolist(), strict=True)),
            reference=reference,
            metrics={
                "reference": _metrics(before, right, weights[fitting]),
                "calibrated": _metrics(fitted.held_out, right, weights[fitting]),
            },
            curve=_points(model),
            band=1 - BAND_LEVEL,
            counts=_counts(rows.of(slice(None))[0], levels[0]),
            valid_for=valid_for,
            looks=looks_before,
            level=levels[0],
            seed=seed,
            digests=dict(digests or {}),
            versions=library_versions(),
        ),
    )


def _parts(table: ScoreTable, groups: Ints | None, seed: int) -> tuple[Ints, Ints]:
    """Rows that fit and rows that promise: all for both of one score, else the later or drawn ones promise."""
    everything = np.arange(len(table.right))
    if len(table.signals) == 1:
        return everything, everything
    if table.time is not None and groups is None:
        order = np.argsort(table.time, kind="stable")
        first = len(order) * (_FOLDS - _PROMISING_FOLDS) // _FOLDS
        return np.sort(order[:first]), np.sort(order[first:])
    folds = make_folds(table.right, groups=groups, seed=seed, num_folds=_FOLDS)
    if len(folds) < _FOLDS:  # too few groups to keep some apart
        return everything, everything[:0]
    promising = np.sort(np.concatenate(folds[:_PROMISING_FOLDS]))
    return np.delete(everything, promising), promising


def _promising(table: ScoreTable, model: ScoreModel, chosen: Ints, groups: Ints | None) -> tuple[_Promising, float]:
    """The rows that promise, and the rank correlation that says which way they are ordered (0 for several signals)."""
    values, right = table.values[chosen], table.right[chosen]
    weights = None if table.weights is None else table.weights[chosen]
    probs = sigmoid(model.log_odds(values))
    # Of several signals rows are ordered by the probability that answers show.
    position, rank = probs, 0.0
    if model.weights is None:
        position = values[:, 0]
        rank = rank_score(Evidence(position, right, None, np.ones(len(right))))
    of_groups = None if groups is None else groups[chosen]
    return _Promising(position, right == 0, 1 - probs, of_groups, weights, higher=rank >= 0), rank


def _levels(rows: _Promising, rank: float, wanted: WantedPromise, looks_before: int) -> tuple[float, float]:
    """The levels of this look and of the next one.

    Where the direction is chance, both are paid for; there is none where all scores or labels are one. Groups and
    weights tell it like so many rows as they count for.
    """
    counted = rows.of(slice(None))[0].size / max(len(rows.position), 1)
    ways = 1 if rank == 0 or abs(rank) * np.sqrt(counted) > _SURE_DIRECTION else 2
    this, following = (ledger_level(looks, 1 - wanted.confidence) / ways for looks in (looks_before, looks_before + 1))
    return this, following


def _reference(values: Floats, right: Ints, weights: Floats, best: Floats | None) -> tuple[str, Floats]:
    """The reference and its log-odds (N,): the best signal, a score that may be a probability, or the share."""
    if best is not None:
        return "best_signal", best
    score, share = values[:, 0], share_log_odds(right, weights)
    known = score[~np.isnan(score)]
    if len(known) and known.min() >= 0 and known.max() <= 1 and len(np.unique(known)) > 2:
        clipped = np.clip(score, _EDGE, 1 - _EDGE)
        return "score", np.where(np.isnan(score), share, np.log(clipped / (1 - clipped)))
    return "share", np.full(len(score), share)


def _verdict(gains: Floats, clusters: Ints, weights: Floats) -> tuple[ScoreVerdict, int | None]:
    """The verdict on gains of NLL, and if that is undetermined how many more labels would settle it."""
    shares = weights / weights.sum()
    mean = float(shares @ gains)
    centred = np.bincount(clusters, shares * (gains - mean))
    error = float(np.sqrt((centred**2).sum() * len(centred) / max(len(centred) - 1, 1)))
    if mean > _ERRORS_SHOWN * error and mean > 0:
        return "post_hoc", None
    if mean + _ERRORS_SHOWN * error < _NO_GAIN:
        return "unchanged", None
    if mean <= 0:
        return "undetermined", None
    return "undetermined", int(np.ceil(len(gains) * ((_ERRORS_PLANNED * error / mean) ** 2 - 1)))


def _metrics(log_odds: Floats, right: Ints, weights: Floats) -> dict[str, float]:
    """NLL and Brier over both outcomes, as of any classifier (0 to 2)."""
    shares = weights / weights.sum()
    return {
        "nll": float(shares @ row_losses(log_odds, right)),
        "brier": float(shares @ (2 * (sigmoid(log_odds) - right) ** 2)),
    }


def _points(model: ScoreModel) -> list[CurvePoint]:
    final = model.final
    probs = sigmoid(final.log_odds)
    columns = (final.knots if model.weights is None else probs, probs, final.low, final.high)
    return [
        CurvePoint(score=score, probability=probability, low=low, high=high)
        for score, probability, low, high in np.stack(columns, axis=1).tolist()
    ]


@dataclass(frozen=True)
class _Promising:
    """The rows that promise, (N,) each, before they are sorted."""

    position: Floats
    wrong: NDArray[np.bool_]
    expected: Floats
    groups: Ints | None
    weights: Floats | None
    higher: bool

    def of(self, chosen: slice | NDArray[np.bool_]) -> tuple[Rows, Floats]:
        """Some of them, the best first, and how probable it is that each is wrong."""
        rows = Rows.of(
            self.position[chosen],
            self.wrong[chosen],
            higher=self.higher,
            clusters=None if self.groups is None else self.groups[chosen],
            weights=None if self.weights is None else self.weights[chosen],
        )
        return rows, np.sort(self.expected[chosen])


def _promise(
    rows: _Promising, table: ScoreTable, promising: Ints, wanted: WantedPromise, levels: tuple[float, float]
) -> ScorePromise:
    """The promise by the first level; what could be reached by the second, that of another look."""
    made = _made(*rows.of(slice(None)), wanted, *levels)
    per_slice = []
    if table.slices is not None:
        named = table.slices[promising]
        names = np.unique(named).tolist()
        per_slice = [
            SliceThreshold(
                value=str(name),
                **dict(_made(*rows.of(named == name), wanted, *(level / len(names) for level in levels))),
            )
            for name in names
        ]
    single = len(table.signals) == 1
    return ScorePromise(
        **dict(made),
        sentence=promised(made, wanted, higher=rows.higher, what="Scores" if single else "Probabilities"),
        population=population(
            "score" if single else "signals",
            "row" if table.groups is None else "group",
            time=table.time is not None,
        ),
        max_error=None if wanted.recall is not None else round(wanted.error, 9),
        recall=wanted.recall,
        confidence=wanted.confidence,
        accepts="higher" if rows.higher else "lower",
        slice=table.slice,
        per_slice=per_slice,
    )


def _made(rows: Rows, expected: Floats, wanted: WantedPromise, level: float, next_level: float) -> MadeThreshold:
    count = len(rows.scores)
    found: Accepted | None = None
    if count and wanted.recall is not None:
        found = accepted_with_recall(rows, wanted.recall, level)
    elif count:
        found = accepted_within(rows, wanted.error, level)
    if found is not None:
        return MadeThreshold(
            threshold=found.threshold,
            accepted_share=found.share,
            accepted_rows=found.rows,
            errors=found.errors,
            num_rows=count,
        )
    if not count or wanted.recall is not None:
        return MadeThreshold(num_rows=count)
    return MadeThreshold(
        num_rows=count,
        reachable=reachable_error(rows, wanted.error, next_level),
        more_labels=more_labels(rows, expected, wanted.error, next_level),
    )


def _counts(rows: Rows, level: float) -> list[list[float]]:
    """Score, accepted rows, errors, and the bound of their share at ranks from the first on, for a picture."""
    ranks = rows.ranks(1)
    if not len(ranks):
        return []
    errors, trials = rows.counts(ranks)
    bounds = upper_bound(errors, trials, level)
    wrong = np.cumsum(rows.wrong)[ranks - 1]
    return [
        [float(rows.scores[rank - 1]), int(rank), int(bad), round(float(bound), 6)]
        for rank, bad, bound in zip(ranks, wrong, bounds, strict=True)
    ]
