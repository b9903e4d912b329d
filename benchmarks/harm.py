"""How often what is served is worse than the upload: under null and harmful candidates, and where it was perfect.

A job has two candidates of one kind: networks that are truly worse by a share of the NLL, or the uploaded model and
another network with one class damaged (`benchmarks.guards`). Calibration rows weigh them in a log-linear pool with the
upload, as a race does, and the gate judges on test rows what is better on them than everything simpler. A job repeated
on the same rows has new candidates and a longer ledger. Served counts as worse if the true NLL, of the true
probabilities, is higher by more than 1 %. Run it with `OMP_NUM_THREADS=1 python -m benchmarks.harm`; it prints a table.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from benchmarks.guards import DAMAGES, WORLDS, Floats, Ints, World, damaged, true_nll
from fedlas.calibrators import softmax
from fedlas.calibrators.pool import log_pooled, log_probs
from fedlas.gate.gate import judge
from fedlas.gate.guards import JudgementOptions
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.results import post_hoc_names

CALIBRATION_ROWS = 1000
TEST_ROWS = (200, 500, 1000)
TRUTH_ROWS = 2000
JOBS = 5
#: A network that is truly worse by so large a share of the NLL; the first is no harm, and served it costs nothing.
RISES = (0.0, 0.02, 0.04, 0.08)
MAX_RISE = 0.01
MAX_BRIER_RISE = 0.002
NOISE = 0.25


@dataclass(frozen=True)
class Share:
    """How many of so many draws: what was counted, and on how many test rows."""

    figure: str
    rows: int
    draws: int
    count: int


class Uploaded:
    """A world seen through noise, calibrated; and how much more noise makes it worse by a share of its NLL."""

    def __init__(self, world: World) -> None:
        self.world, self.noise = world, NOISE * world.spread
        self._shrink = world.spread**2 / (world.spread**2 + self.noise**2)
        logits, _ = world.draw(40_000, np.random.default_rng(1))
        self._truth = logits, softmax(logits)

    def seen(self, logits: Floats, rng: Generator, extra: float = 0.0) -> Floats:
        """Probabilities (N, K) of a network like the uploaded one, with so much more noise."""
        prior = np.log(self.world.priors)
        scattered = logits - prior + np.hypot(self.noise, extra) * rng.normal(size=logits.shape)
        return softmax(self._shrink * scattered + prior)

    def extra_noise(self, rise: float) -> float:
        """By bisection on 40,000 rows."""
        logits, truth = self._truth
        before = true_nll(truth, self.seen(logits, np.random.default_rng(2)))
        low, high = 0.0, 4 * self.world.spread
        for _ in range(14 if rise else 0):
            middle = (low + high) / 2
            after = true_nll(truth, self.seen(logits, np.random.default_rng(2), middle))
            low, high = (middle, high) if after < (1 + rise) * before else (low, middle)
        return low


def served(probs: Mapping[str, Floats], targets: Ints, looks: int = 0) -> str | None:
    """The finalist that the gate serves on test rows."""
    return judge(
        probs, targets, provenance="no", evaluations_before=looks, options=JudgementOptions(num_resamples=2)
    ).finalist


def harm(model: Uploaded, kind: str | float, draws: int) -> list[Share]:
    """By number of test rows: the first job served something worse, any of five did, or one at a cost of 1."""
    seed = [*RISES, *DAMAGES].index(kind), len(model.world.priors)
    rng, counts = np.random.default_rng(seed), Counter[tuple[str, int]]()
    extra = model.extra_noise(kind) if isinstance(kind, float) else 0.0
    for _ in range(draws):
        for (cost, rows), found in _jobs(model, kind, extra, rng).items():
            counts[f"the first job, at a cost of {cost}", rows] += found[0]
            counts[f"any of {JOBS} jobs, at a cost of {cost}", rows] += any(found)
    name = kind if isinstance(kind, str) else f"networks, NLL + {100 * kind:.0f} %"
    return [Share(f"{model.world.name}; {name}; {jobs}", rows, draws, n) for (jobs, rows), n in sorted(counts.items())]


def _jobs(model: Uploaded, kind: str | float, extra: float, rng: Generator) -> dict[tuple[int, int], list[bool]]:
    """For each cost and number of test rows, whether each of the jobs on the same rows served something worse."""
    judged = CALIBRATION_ROWS + max(TEST_ROWS)
    logits, targets = model.world.draw(judged + TRUTH_ROWS, rng)
    uploaded, truth = model.seen(logits, rng), softmax(logits[judged:])
    selector = CalibratorSelector(targets[:CALIBRATION_ROWS], ("temperature",), reads_features=False)
    bar = (1 + MAX_RISE) * true_nll(truth, uploaded[judged:])
    worse: dict[tuple[int, int], list[bool]] = {(cost, rows): [] for cost in (1, 3) for rows in TEST_ROWS}
    for job in range(JOBS):
        candidates = [_candidate(kind, uploaded, model, logits, rng, extra) for _ in range(2)]
        if isinstance(kind, str):
            candidates[1] = _candidate(kind, model.seen(logits, rng), model, logits, rng, extra)
        named = _finalists(selector, uploaded, candidates, of_networks=isinstance(kind, float))
        for cost, rows in worse:
            finalists = {one: probs for one, probs in named.items() if cost > 1 or one != "average"}
            test = slice(CALIBRATION_ROWS, CALIBRATION_ROWS + rows)
            name = served({n: p[test] for n, p in {"uploaded": uploaded, **finalists}.items()}, targets[test], job)
            worse[cost, rows].append(name is not None and true_nll(truth, finalists[name][judged:]) > bar)
    return worse


def _finalists(
    selector: CalibratorSelector, uploaded: Floats, candidates: list[Floats], *, of_networks: bool
) -> dict[str, Floats]:
    """Probabilities (N, K) by finalist, as a race names them; of calibration rows they are out of fold."""
    calibrators, networks = ([], candidates) if of_networks else (candidates[:1], candidates[1:])

    def pool(members: list[Floats]) -> tuple[Floats, Floats]:
        logs = [log_probs(np.log(one.clip(1e-300))) for one in members]
        weights, held_out = selector.log_mixed([one[:CALIBRATION_ROWS] for one in logs])
        return weights, softmax(np.concatenate([held_out, log_pooled(logs, weights)[CALIBRATION_ROWS:]]))

    own = [uploaded, *calibrators]
    found = {"post_hoc": pool(own)[1]}
    weights, _ = pool([*own, *networks])
    worth = [one for one, weight in zip(networks, weights[len(own) :], strict=True) if weight]
    for name, probs in (("trained", networks[0]), ("average", pool([*own, *worth])[1])):
        if _is_best(selector, probs, found):
            found[name] = probs
    return found


def _is_best(selector: CalibratorSelector, probs: Floats, simpler: Mapping[str, Floats]) -> bool:
    """True where the NLL on calibration rows is lower than that of everything simpler."""
    nll = [selector.nll(np.log(one[:CALIBRATION_ROWS].clip(1e-300))) for one in (probs, *simpler.values())]
    return nll[0] < min(nll[1:])


def _candidate(
    kind: str | float, base: Floats, model: Uploaded, logits: Floats, rng: Generator, extra: float
) -> Floats:
    if isinstance(kind, float):
        return model.seen(logits, rng, extra)
    num_classes = base.shape[1]
    return damaged(kind, base, 1 if num_classes == 2 else int(rng.integers(num_classes)), rng)


def perfect(world: World, num_test: int, draws: int) -> Share:
    """The uploaded model tells the true probabilities; all calibrators compete, as in a job that trains nothing."""
    rng, count = np.random.default_rng(num_test), 0
    for _ in range(draws):
        logits, targets = world.draw(CALIBRATION_ROWS + num_test, rng)
        fit, test = slice(CALIBRATION_ROWS), slice(CALIBRATION_ROWS, None)
        names = post_hoc_names(logits.shape[1], CALIBRATION_ROWS)
        selector = CalibratorSelector(targets[fit], names, reads_features=False)
        found = selector.finalists(selector.calibrate(logits[fit]), selector.temperature(logits[fit]))
        probs = {name: softmax(one.calibrator(logits[test])) for name, one in found.items()}
        truth = softmax(logits[test])
        name = served({"uploaded": truth, **probs}, targets[test])
        count += name is not None and float(((probs[name] - truth) ** 2).sum(axis=1).mean()) > MAX_BRIER_RISE
    return Share(f"{world.name}; the upload is perfect; true Brier + {MAX_BRIER_RISE}", num_test, draws, count)


def figures(draws: int) -> Iterator[Share]:
    for world in (WORLDS[1], WORLDS[4]):
        yield from (perfect(world, rows, draws) for rows in (500, 1000))
        model = Uploaded(world)
        for kind in (*RISES, *DAMAGES):
            yield from harm(model, kind, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100, help="draws of each figure")
    draws = parser.parse_args().draws
    print("| figure | test rows | draws | worse | share |\n|---|---|---|---|---|")
    for one in figures(draws):
        print(
            f"| {one.figure} | {one.rows:,} | {one.draws} | {one.count} | {100 * one.count / draws:.1f} % |", flush=True
        )


if __name__ == "__main__":
    main()
