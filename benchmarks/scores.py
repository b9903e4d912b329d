"""Measures scores that become probabilities, and thresholds with a promise: `python -m benchmarks.scores [PART …]`.

Judges are simulated, with a known P(right | score), so that every promise is counted against the truth. The tables go
to standard output. Parts: promise, families, integers, nll, signals, labels.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from scipy.stats import binom

from benchmarks.score_families import families, integers
from fedlas.gate.gate import ledger_level
from fedlas.guarantees.guarantees import upper_bound
from fedlas.scores.calibration import calibrate_table
from fedlas.scores.curve import Evidence, fit_curve, row_losses, sigmoid
from fedlas.scores.promise import Rows, accepted_within, planned_labels
from fedlas.scores.table import ScoreTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_ERROR = 0.05
CONFIDENCE = 0.95
LEVEL = ledger_level(0, 1 - CONFIDENCE)
POPULATION = 200_000


@dataclass(frozen=True)
class Judge:
    """A score in 0..1 and P(right | score) = sigmoid(slope · logit + shift) of a logit that is normal."""

    spread: float
    centre: float
    ties: int = 0

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Scores (N,), which say too much, and the probabilities (N,) that the rows are right."""
        logits = self.centre + self.spread * rng.normal(size=count)
        scores = 1 / (1 + np.exp(-(2.5 * logits + 0.5)))
        if not self.ties:
            return scores, sigmoid(logits)
        # What a judge of ten says: the truth of a bin is the mean of what falls into it, which a draw follows.
        return np.ceil(self.ties / (1 + np.exp(-logits))), sigmoid(logits)


JUDGES = {
    "sharp": Judge(4.0, 2.0),
    "usual": Judge(1.8, 1.5),
    "weak": Judge(0.8, 1.5),
    "sharp, 1 to 10": Judge(4.0, 2.0, ties=10),
    "usual, 1 to 10": Judge(1.8, 1.5, ties=10),
}
PROMISE_SIZES = (50, 200, 500, 2000, 10_000)


class Truth:
    """The error among all rows of a judge at or above a score, from many draws."""

    def __init__(self, judge: Judge) -> None:
        scores, probs = judge.draw(POPULATION, np.random.default_rng(99))
        order = np.argsort(-scores, kind="stable")
        self.scores, self.errors = scores[order], np.cumsum(1 - probs[order]) / np.arange(1, POPULATION + 1)

    def error_at(self, threshold: float) -> float:
        return float(self.errors[max(np.searchsorted(-self.scores, -threshold, side="right") - 1, 0)])

    def share_at(self, threshold: float) -> float:
        return float(np.searchsorted(-self.scores, -threshold, side="right")) / POPULATION


def ours(scores: Floats, wrong: NDArray[np.bool_]) -> float | None:
    found = accepted_within(Rows.of(scores, wrong), MAX_ERROR, LEVEL)
    return None if found is None else found.threshold


def hindsight(scores: Floats, wrong: NDArray[np.bool_]) -> float | None:
    """The lowest threshold whose own exact bound holds, chosen after the labels were seen, which nothing pays for."""
    rows = Rows.of(scores, wrong)
    ranks = rows.ranks(1)
    kept = ranks[upper_bound(*rows.counts(ranks), LEVEL) <= MAX_ERROR]
    return float(rows.scores[kept[-1] - 1]) if len(kept) else None


PROCEDURES: dict[str, Callable[[Floats, NDArray[np.bool_]], float | None]] = {
    "ours": ours,
    "hindsight": hindsight,
}


def promise_cell(name: str, count: int, slices: int, repeats: int) -> list[list[float]]:
    """For each procedure the shares of broken promises, of rows accepted, and of samples without a threshold."""
    judge, truth, rng = JUDGES[name], Truth(JUDGES[name]), np.random.default_rng(count + slices)
    found = []
    for procedure in PROCEDURES.values() if not slices else [ours]:
        broken, shares, none = 0, [], 0
        for _ in range(repeats if procedure is ours else min(repeats, 300)):
            scores, probs = judge.draw(count, rng)
            wrong = rng.random(count) > probs
            parts = [slice(None)] if not slices else [rng.integers(slices, size=count) == k for k in range(slices)]
            thresholds = [_part(procedure, scores[part], wrong[part], len(parts)) for part in parts]
            broken += any(t is not None and truth.error_at(t) > MAX_ERROR for t in thresholds)
            shares.append(np.mean([0.0 if t is None else truth.share_at(t) for t in thresholds]))
            none += all(t is None for t in thresholds)
        found.append([broken / len(shares), float(np.mean(shares)), none / len(shares)])
    return found


def _part(
    procedure: Callable[[Floats, NDArray[np.bool_]], float | None],
    scores: Floats,
    wrong: NDArray[np.bool_],
    parts: int,
) -> float | None:
    if parts == 1:
        return procedure(scores, wrong)
    found = accepted_within(Rows.of(scores, wrong), MAX_ERROR, LEVEL / parts)
    return None if found is None else found.threshold


def oracle(name: str, count: int) -> float:
    """The share accepted by one exact test at the rank that is best on average, which only who knows the truth can."""
    truth = Truth(JUDGES[name])
    best = 0.0
    for share in np.arange(0.02, 1.0001, 0.02):
        rank = int(share * count)
        if rank < 1:
            continue
        error = float(truth.errors[int(share * POPULATION) - 1])
        most = np.arange(rank + 1)
        allowed = int((beta_distribution.ppf(1 - LEVEL, most[:-1] + 1, rank - most[:-1]) <= MAX_ERROR).sum()) - 1
        best = max(best, share * float(binom.cdf(allowed, rank, error)) if allowed >= 0 else 0.0)
    return best


def promise(repeats: int) -> Iterator[str]:
    """Shares of broken promises, and of rows accepted, also as parts of what two oracles accept.

    One knows the truth, and makes one exact test at the rank that is best on average; the other looks at the labels
    first, so that its promises break more often than they say.
    """
    yield "| judge | n | broken | accepted | of one test | of hindsight (broken) | none |"
    yield "|---|---|---|---|---|---|---|"
    cells = [(name, count, 0) for name in JUDGES for count in PROMISE_SIZES] + [
        ("sharp", 2000, 3),
        ("usual", 10_000, 3),
    ]
    broken = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(partial(_promise_row, repeats=repeats), cells)
        for (name, count, slices), (best, found) in zip(cells, results, strict=True):
            (broke, share, none), *others = found
            broken.append(broke)
            start = f"| {name}{f', {slices} slices' if slices else ''} | {count} | {broke:.3f} | {share:.2f} |"
            if slices:
                yield f"{start} | | {none:.2f} |"
                continue
            (after,) = others
            yield f"{start} {_part_of(share, best)} | {_part_of(share, after[1])} ({after[0]:.2f}) | {none:.2f} |"
    yield f"\nbroken: at most {max(broken):.3f} of a cell, {np.mean(broken):.3f} on average; {repeats} repeats"


def _part_of(share: float, whole: float) -> str:
    return f"{share / whole:.2f}" if whole > 0.01 else ""


def _promise_row(cell: tuple[str, int, int], repeats: int) -> tuple[float, list[list[float]]]:
    name, count, slices = cell
    return (0.0 if slices else oracle(name, count)), promise_cell(name, count, slices, repeats)


# --- probabilities ----------------------------------------------------------------------------------------------------


def fitted_ours(scores: Floats, right: Ints) -> Callable[[Floats], Floats]:
    curve, _ = fit_curve(Evidence(scores, right, None, np.ones(len(right))))
    return lambda values: sigmoid(curve(values))


def platt(scores: Floats, right: Ints) -> Callable[[Floats], Floats]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(scores[:, None], right)
    return lambda values: fitted.predict_proba(values[:, None])[:, 1]


def isotonic(scores: Floats, right: Ints) -> Callable[[Floats], Floats]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, right)
    return fitted.predict


def netcal(kind: str) -> Callable[[Floats, Ints], Callable[[Floats], Floats]]:
    def fit(scores: Floats, right: Ints) -> Callable[[Floats], Floats]:
        import netcal.binning
        import netcal.scaling

        made = getattr(netcal.scaling, kind, None) or getattr(netcal.binning, kind)
        method = made()
        method.fit(np.clip(scores, 0, 1), right)
        return lambda values: np.asarray(method.transform(np.clip(values, 0, 1)), np.float64).reshape(-1)

    return fit


RIVALS: dict[str, Callable[[Floats, Ints], Callable[[Floats], Floats]]] = {
    "Platt": platt,
    "isotonic": isotonic,
    "netcal logistic": netcal("LogisticCalibration"),
    "netcal beta": netcal("BetaCalibration"),
    "netcal histogram": netcal("HistogramBinning"),
    "netcal BBQ": netcal("BBQ"),
}
NLL_SIZES = (100, 500, 2000)
#: A difference below this share of the NLL is none; harm is more than that one.
TIE = 0.002
HARM = 0.01
_LEAST = 1e-4


def expected_nll(probs: Floats, truth: Floats) -> float:
    clipped = np.clip(probs, _LEAST, 1 - _LEAST)
    return float(-(truth * np.log(clipped) + (1 - truth) * np.log(1 - clipped)).mean())


def nll(repeats: int) -> Iterator[str]:
    yield "| rival | n | no worse | harm | mean difference of NLL |"
    yield "|---|---|---|---|---|"
    cells = [
        (name, count, seed) for count in NLL_SIZES for name in ("sharp", "usual", "weak") for seed in range(repeats)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_nll_cell, cells, chunksize=4))
    for rival in RIVALS:
        for count in NLL_SIZES:
            pairs = np.array([row[rival] for cell, row in zip(cells, rows, strict=True) if cell[1] == count])
            yield _compared(rival, str(count), pairs)


def _compared(label: str, count: str, pairs: Floats) -> str:
    mine, theirs = pairs.T
    worse = mine / theirs - 1
    no_worse, harm, mean = (worse <= TIE).mean(), (worse > HARM).mean(), (mine - theirs).mean()
    return f"| {label} | {count} | {no_worse:.3f} | {harm:.3f} | {mean:+.4f} |"


def _nll_cell(cell: tuple[str, int, int]) -> dict[str, tuple[float, float]]:
    name, count, seed = cell
    rng = np.random.default_rng([seed, count])
    scores, probs = JUDGES[name].draw(count, rng)
    right = (rng.random(count) < probs).astype(np.int64)
    fresh, truth = JUDGES[name].draw(20_000, rng)
    mine = expected_nll(fitted_ours(scores, right)(fresh), truth)
    return {rival: (mine, expected_nll(fit(scores, right)(fresh), truth)) for rival, fit in RIVALS.items()}


# --- several signals --------------------------------------------------------------------------------------------------


def draw_signals(count: int, rng: np.random.Generator) -> tuple[dict[str, Floats], Ints, Floats]:
    """Eight signals of one truth: two useful, one inverted, three redundant, two useless; a tenth of one is missing."""
    truth = 1.0 + 1.8 * rng.normal(size=count)
    first = truth + 1.2 * rng.normal(size=count)
    second = truth + 1.6 * rng.normal(size=count)
    columns = [first, second, -(truth + 1.6 * rng.normal(size=count))]
    columns += [first + 0.2 * rng.normal(size=count) for _ in range(3)]
    columns += [rng.normal(size=count), rng.exponential(size=count)]
    columns[1] = np.where(rng.random(count) < 0.1, np.nan, columns[1])
    right = (rng.random(count) < sigmoid(truth)).astype(np.int64)
    return {f"signal_{place}": column for place, column in enumerate(columns)}, right, sigmoid(truth)


def signals(repeats: int) -> Iterator[str]:
    yield "| eight signals against | n | lower | worse (> 1 %) | mean difference of NLL |"
    yield "|---|---|---|---|---|"
    for count in (500, 2000):
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            rows = np.array(list(pool.map(partial(_signals_cell, count), range(repeats))))
        for place, rival in enumerate(
            ("the best signal", "logistic stacking", "the best signal's curve on all rows"), 1
        ):
            mine, theirs = rows[:, 0], rows[:, place]
            worse = (mine / theirs > 1 + HARM).mean()
            yield f"| {rival} | {count} | {(mine < theirs).mean():.3f} | {worse:.3f} | {(mine - theirs).mean():+.4f} |"


def _signals_cell(count: int, seed: int) -> tuple[float, float, float, float]:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng([seed, count])
    columns, right, _ = draw_signals(count, rng)
    fresh, _, truth = draw_signals(20_000, rng)
    model = calibrate_table(ScoreTable(columns, right, ("wrong", "right"))).model
    given, asked = (np.stack(list(part.values()), axis=1) for part in (columns, fresh))
    mine = expected_nll(sigmoid(model.log_odds(asked)), truth)
    each = [fit_curve(Evidence(column, right, None, np.ones(count))) for column in columns.values()]
    best = int(np.argmin([row_losses(held_out, right).mean() for _, held_out in each]))
    single = expected_nll(sigmoid(each[best][0](asked[:, best])), truth)
    filled = np.nanmean(given, axis=0)
    given, asked = (np.where(np.isnan(part), filled, part) for part in (given, asked))
    stacked = LogisticRegression(C=1e6, max_iter=1000).fit(given, right).predict_proba(asked)[:, 1]
    half = fit_curve(Evidence(given[: count * 3 // 5, best], right[: count * 3 // 5], None, np.ones(count * 3 // 5)))[0]
    return mine, expected_nll(sigmoid(half(asked[:, best])), truth), expected_nll(stacked, truth), single


# --- how many labels --------------------------------------------------------------------------------------------------

PLANNED = (("usual", 0.1), ("usual", 0.2), ("usual", 0.3), ("sharp", 0.3), ("sharp", 0.4), ("sharp", 0.5))


def labels(repeats: int) -> Iterator[str]:
    """The planned number of labels beside the one with which four of five samples accept nearly that share."""
    yield "| judge | accepted | error there | planned | realised | realised / planned |"
    yield "|---|---|---|---|---|---|"
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for (name, share), row in zip(PLANNED, pool.map(partial(_labels_cell, repeats=repeats), PLANNED), strict=True):
            there, planned, realised = row
            yield f"| {name} | {share} | {there:.3f} | {planned:,} | {realised:,} | {realised / planned:.2f} |"
    rng = np.random.default_rng(0)
    scores, probs = JUDGES["usual"].draw(1000, rng)
    table = ScoreTable({"score": scores}, (rng.random(1000) < probs).astype(np.int64), ("0", "1"))
    began = time.perf_counter()
    calibrate_table(table)
    yield f"\n1,000 rows to their promise in the library: {time.perf_counter() - began:.2f} s"


def _labels_cell(cell: tuple[str, float], repeats: int) -> tuple[float, int, int]:
    name, share = cell
    judge, truth = JUDGES[name], Truth(JUDGES[name])
    there = float(truth.errors[int(share * POPULATION) - 1])

    def enough(count: int) -> bool:
        rng = np.random.default_rng(count)
        passed = 0
        for _ in range(repeats):
            scores, probs = judge.draw(count, rng)
            threshold = ours(scores, rng.random(count) > probs)
            passed += threshold is not None and truth.share_at(threshold) >= 0.95 * share
        return passed >= 0.8 * repeats

    counts = np.geomspace(60, 20_000, 80).astype(int).tolist()
    realised = next((count for count in counts if enough(count)), counts[-1])
    return there, planned_labels(MAX_ERROR, share, LEVEL, error_there=there), realised


PARTS = {
    "promise": (promise, 2000),
    "families": (families, 250),
    "integers": (integers, 400),
    "nll": (nll, 100),
    "signals": (signals, 100),
    "labels": (labels, 150),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all unless some are named")
    parser.add_argument("--repeats", type=int, help="fewer, to see that it runs")
    given = parser.parse_args()
    for name in given.parts or PARTS:
        part, repeats = PARTS[name]
        print(f"\n## {name}\n")
        for line in part(given.repeats or repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
