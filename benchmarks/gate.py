"""How often the gate errs, how often it finds what is there, and what its intervals cover; it knows no network.

Models are made, not trained: true logits are drawn, labels from them, and a model sees the logits through its own
noise and temperature, so that the truth can be computed. Run it with `OMP_NUM_THREADS=1 python benchmarks/gate.py`
(about six minutes on one core); it prints a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import softmax
from fedlas.contract.report import GateVerdict
from fedlas.gate.gate import judge, ledger_level
from fedlas.gate.guards import JudgementOptions
from fedlas.metrics import evaluate
from fedlas.metrics.betting_intervals import paired_mean
from fedlas.metrics.calibration_error import equal_mass_bins
from fedlas.metrics.per_class import holm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Json = dict[str, Any]
NUM_CLASSES = 10
SPREAD = 4.0
NOISE = 0.8
TRUTH_ROWS = 200_000
TRUTH_PARTS = 5
#: Few resamples: the bootstrap decides nothing in the gate.
RESAMPLES = 20


def rows(num_rows: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """True logits (N, K) of an accuracy of about 70 % for a model with noise, and labels drawn from them."""
    logits = SPREAD * rng.normal(size=(num_rows, NUM_CLASSES))
    return logits, (softmax(logits).cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)


def noisy(logits: Floats, rng: np.random.Generator, *, noise: float = NOISE, sharpness: float = 1.0) -> Floats:
    """Probabilities of a model that sees the truth through noise, and is too sure of itself by `sharpness`."""
    return softmax(sharpness * (logits + noise * rng.normal(size=logits.shape)))


def gate(uploaded: Floats, post_hoc: Floats, trained: Floats | None, targets: Ints, looks: int = 0) -> GateVerdict:
    return judge(
        {"uploaded": uploaded, "post_hoc": post_hoc, "trained": trained},
        targets,
        provenance="no",
        evaluations_before=looks,
        options=JudgementOptions(num_resamples=RESAMPLES),
    )


def falsely_shown(num_rows: int, draws: int) -> Json:
    """One model with other noise as the trained and as the post-hoc candidate; any claim counts, by its p-value."""
    rng, count, level = np.random.default_rng(num_rows), 0, ledger_level(0, 0.05)
    for _ in range(draws):
        logits, targets = rows(num_rows, rng)
        uploaded, post_hoc, trained = (noisy(logits, rng) for _ in range(3))
        pairs = ((post_hoc, uploaded), (trained, uploaded), (trained, post_hoc))
        first, second, third = (paired_mean(a, b, targets, score="brier").p_value() for a, b in pairs)
        count += any(holm([first, max(second, third)], level)[1])
    return {"figure": "null finalists shown to be better", "rows": num_rows, "draws": draws, "value": count}


def found_gains(kind: str, num_rows: int, draws: int, *, gain: float = 0.01) -> Json:
    """Power at a true Brier gain: by a temperature (one claim), or by a network with less noise (both claims)."""
    worse = _as_much_worse(kind, gain)
    rng, count = np.random.default_rng(num_rows), 0
    for _ in range(draws):
        logits, targets = rows(num_rows, rng)
        seen = logits + NOISE * rng.normal(size=logits.shape)
        uploaded = worse(logits, seen, rng)
        best = softmax(_SHARPNESS * seen)
        post_hoc, trained = (best, None) if kind == "temperature" else (uploaded, best)
        # The claim counts, not the verdict, which the guards have a say in.
        count += gate(uploaded, post_hoc, trained, targets).claims[-1].significant
    return {"figure": f"shown, true gain {gain} by a {kind}", "rows": num_rows, "draws": draws, "value": count}


#: The temperature that calibrates a model of noise `NOISE` nearly: var(true) / var(seen).
_SHARPNESS = SPREAD**2 / (SPREAD**2 + NOISE**2)


def _as_much_worse(kind: str, gain: float) -> Callable[[Floats, Floats, np.random.Generator], Floats]:
    """A model whose true Brier score is worse than that of the calibrated one by `gain`, found by bisection."""

    def model(amount: float) -> Callable[[Floats, Floats, np.random.Generator], Floats]:
        if kind == "temperature":
            return lambda logits, seen, rng: softmax(_SHARPNESS * (1 + amount) * seen)
        return lambda logits, seen, rng: softmax(_SHARPNESS * (seen + amount * rng.normal(size=seen.shape)))

    logits, _ = rows(TRUTH_ROWS // 2, np.random.default_rng(1))
    seen = logits + NOISE * np.random.default_rng(2).normal(size=logits.shape)
    truth = softmax(logits)

    def excess(probs: Floats) -> float:
        return float(((probs - truth) ** 2).sum(axis=1).mean())

    best, low, high = excess(softmax(_SHARPNESS * seen)), 0.0, 8.0
    for _ in range(20):
        middle = (low + high) / 2
        found = excess(model(middle)(logits, seen, np.random.default_rng(3))) - best
        low, high = (middle, high) if found < gain else (low, middle)
    return model(low)


def retries(num_rows: int, splits: int, looks: int) -> Json:
    """Splits on which a candidate that is no better (one claim a look) was shown to be in any of so many looks."""
    rng, count = np.random.default_rng(num_rows + 1), 0
    for _ in range(splits):
        logits, targets = rows(num_rows, rng)
        uploaded = noisy(logits, rng)
        judged = (gate(uploaded, noisy(logits, rng), None, targets, look) for look in range(looks))
        count += any(judgement.significant for judgement in judged)
    return {"figure": f"splits with a false claim in {looks} looks", "rows": num_rows, "draws": splits, "value": count}


def coverage(num_rows: int, draws: int) -> list[Json]:
    """How often 95 % intervals hold the truth: calibration error, AURC, Brier difference, for two sharpnesses."""
    results = []
    for sharpness in (_SHARPNESS, 2 * _SHARPNESS):
        truth = _truth(sharpness)
        rng, held = np.random.default_rng(num_rows + 2), np.zeros(3, dtype=int)
        for _ in range(draws):
            logits, targets = rows(num_rows, rng)
            uploaded, other = noisy(logits, rng, sharpness=sharpness), noisy(logits, rng, sharpness=_SHARPNESS)
            report = evaluate(uploaded, targets, num_resamples=300)
            difference = paired_mean(uploaded, other, targets, score="brier").estimate(0.025)
            estimates = (report["calibration_error_l2"], report["aurc"], difference)
            held += [bool(e.low <= t <= e.high) for e, t in zip(estimates, truth, strict=True)]  # type: ignore[union-attr]
        for name, count in zip(("calibration_error_l2", "aurc", "brier difference"), held, strict=True):
            figure = f"coverage of {name}, {'calibrated' if sharpness < 1 else 'too sure'}"
            results.append({"figure": figure, "rows": num_rows, "draws": draws, "value": int(count)})
    return results


def _truth(sharpness: float) -> tuple[float, float, float]:
    """Means over `TRUTH_PARTS` large samples, from the true probabilities rather than from labels drawn from them."""
    rng = np.random.default_rng(4)
    error, area, gain = np.array([_truth_of_one_sample(sharpness, rng) for _ in range(TRUTH_PARTS)]).mean(axis=0)
    return float(error), float(area), float(gain)


def _truth_of_one_sample(sharpness: float, rng: np.random.Generator) -> tuple[float, float, float]:
    logits, _ = rows(TRUTH_ROWS, rng)
    uploaded, other = noisy(logits, rng, sharpness=sharpness), noisy(logits, rng, sharpness=_SHARPNESS)
    probs = softmax(logits)
    confidences, right = uploaded.max(axis=1), probs[np.arange(len(probs)), uploaded.argmax(axis=1)]
    bins = equal_mass_bins(confidences, 15)
    excess = confidences - right
    means = np.bincount(bins, excess) / np.bincount(bins)
    error = float((np.bincount(bins) / len(bins) * means**2).sum() - excess.var() * len(means) / len(bins))
    wrong = 1 - right[np.argsort(-confidences)]
    area = float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())
    return error, area, float((((uploaded - probs) ** 2).sum(axis=1) - ((other - probs) ** 2).sum(axis=1)).mean())


def shown_figures(draws: int) -> Iterator[list[Json]]:
    yield from ([falsely_shown(num_rows, 10 * draws)] for num_rows in (500, 1000, 5000))


def power_figures(draws: int) -> Iterator[list[Json]]:
    for num_rows in (500, 1000, 5000):
        yield [found_gains(kind, num_rows, draws) for kind in ("temperature", "network")]
    yield [retries(500, draws, 20)]


def coverage_figures(draws: int) -> Iterator[list[Json]]:
    for num_rows in (500, 1000, 2000, 10_000):
        yield coverage(num_rows, 2 * draws if num_rows <= 2000 else draws)


FIGURES = {"shown": shown_figures, "power": power_figures, "coverage": coverage_figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--draws",
        type=int,
        default=200,
        help="draws of every figure (false claims: ten times as many; coverage: twice as many up to 2,000 rows)",
    )
    parser.add_argument("--only", choices=FIGURES, help="these figures")
    options = parser.parse_args()
    asked = [options.only] if options.only else list(FIGURES)
    began = time.perf_counter()
    print("| figure | test rows | draws | count | share |\n|---|---|---|---|---|")
    for found in (part for name in asked for part in FIGURES[name](options.draws)):
        for r in found:
            share = 100 * r["value"] / r["draws"]
            print(f"| {r['figure']} | {r['rows']:,} | {r['draws']} | {r['value']} | {share:.1f} % |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
