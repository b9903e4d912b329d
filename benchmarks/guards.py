"""Damage that the guards stop: seven kinds, to one class of a good finalist, and finalists that do no harm.

Models are made, not trained: true logits are drawn, labels from them; the uploaded model sees the logits through noise,
is 1.8 times too sure, and is wrong about every class by an offset. Finalists are fitted on calibration rows of their
own. Run it with `OMP_NUM_THREADS=1 python -m benchmarks.guards`; it prints tables.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import AffineScaling, TemperatureScaling, VectorScaling, softmax
from fedlas.calibrators.base import LogitsCalibrator
from fedlas.gate.findings import MIN_CLASS_ROWS
from fedlas.gate.guards import JudgedRows, JudgementOptions, guard_finalist

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SHARPNESS = 1.8
OFFSET = 0.5
NOISE = 0.5
BETTER_NOISE = 0.35
DAMAGES = (
    "a class forgotten (p × 0.001)",
    "its odds / 10",
    "its odds / 3",
    "class at its base rate",
    "class noisy",
    "class × 5",
    "all logits noisy",
)


@dataclass(frozen=True)
class World:
    """Class priors of about these shares, and how far true logits scatter; `weighted` uploads forget the priors."""

    name: str
    priors: Floats
    spread: float
    weighted: bool = False

    def draw(self, num_rows: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
        """True logits (N, K), and labels drawn from them."""
        logits = self.spread * rng.normal(size=(num_rows, len(self.priors))) + np.log(self.priors)
        return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def _falling(num_classes: int) -> Floats:
    weights = 1 / np.arange(1, num_classes + 1)
    priors: Floats = weights / weights.sum()
    return priors


WORLDS = (
    World("2 classes, 40 %", np.array([0.6, 0.4]), 2.0),
    World("2 classes, 15 %", np.array([0.95, 0.05]), 2.0),
    World("2 classes, 15 %, weighted", np.array([0.95, 0.05]), 2.0, weighted=True),
    World("3 classes", np.array([0.6, 0.3, 0.1]), 2.0),
    World("10 classes", np.full(10, 0.1), 2.5),
    World("10 classes, falling", _falling(10), 2.5),
    World("26 classes", np.full(26, 1 / 26), 3.0),
    World("100 classes, falling", _falling(100), 3.5),
)


@dataclass(frozen=True)
class Drawn:
    """Test rows of one draw: the truth (N, K), targets (N,), the uploaded model's answers, and those of finalists."""

    truth: Floats
    targets: Ints
    uploaded: Floats
    finalists: dict[str, Floats]


def draw(world: World, num_calibration: int, num_test: int, rng: np.random.Generator) -> Drawn:
    """An uploaded model, its temperature, its own offsets and slopes, and a better network with a temperature."""
    logits, targets = world.draw(num_calibration + num_test, rng)
    shape, noise = logits.shape, NOISE * world.spread / 2
    offset = OFFSET * rng.normal(size=shape[1]) - (np.log(world.priors) if world.weighted else 0)
    uploaded = SHARPNESS * (logits + noise * rng.normal(size=shape) + offset)
    better = SHARPNESS * (logits + BETTER_NOISE / NOISE * noise * rng.normal(size=shape))

    def fitted(kind: type[LogitsCalibrator], scores: Floats) -> Floats:
        return softmax(kind().fit(scores[:num_calibration], targets[:num_calibration])(scores[num_calibration:]))

    finalists = {
        "same_labels": fitted(TemperatureScaling, uploaded),
        "post_hoc": fitted(AffineScaling if shape[1] == 2 else VectorScaling, uploaded),
        "trained": fitted(TemperatureScaling, better),
    }
    test = slice(num_calibration, None)
    return Drawn(softmax(logits[test]), targets[test], softmax(uploaded[test]), finalists)


def damaged(kind: str, probs: Floats, k: int, rng: np.random.Generator) -> Floats:
    """The probabilities (N, K) with class k said wrong in one of `DAMAGES`."""
    if kind == "all logits noisy":
        return softmax(np.log(probs.clip(1e-12)) + rng.normal(size=probs.shape))
    changed, own = probs.copy(), probs[:, k].clip(1e-12, 1 - 1e-12)
    factors = {"a class forgotten (p × 0.001)": 0.001, "its odds / 10": 0.1, "its odds / 3": 1 / 3, "class × 5": 5.0}
    if kind == "class at its base rate":
        others = (1 - own.mean()) / (1 - own)
        changed *= others[:, None]
        changed[:, k] = own.mean()
    else:
        changed[:, k] *= factors[kind] if kind in factors else np.exp(2 * rng.normal(size=len(probs)))
    out: Floats = changed / changed.sum(axis=1, keepdims=True)
    return out


def stops(finalist: str, drawn: Drawn, probs: Floats) -> list[str]:
    """The guards that stop these answers of a finalist."""
    known = {"uploaded": drawn.uploaded, **drawn.finalists, finalist: probs}
    found = guard_finalist(finalist, known, JudgedRows(drawn.targets, None), JudgementOptions(num_resamples=2))
    return [guard.name for guard in found if not guard.passed]


def true_nll(truth: Floats, probs: Floats) -> float:
    return float(-(truth * np.log(probs.clip(1e-300))).sum(axis=1).mean())


def one_world(world: World, num_calibration: int, num_test: int, draws: int) -> Iterator[tuple[str, list[str]]]:
    """The finalists that were judged, and the guards that stopped each of them."""
    rng = np.random.default_rng(len(world.priors) + num_test)
    for _ in range(draws):
        drawn = draw(world, num_calibration, num_test, rng)
        before = true_nll(drawn.truth, drawn.uploaded)
        for name, probs in drawn.finalists.items():
            if true_nll(drawn.truth, probs) < before:
                yield f"honest: {name}", stops(name, drawn, probs)
        common = np.flatnonzero(np.bincount(drawn.targets, minlength=len(world.priors)) >= MIN_CLASS_ROWS)
        k = int(rng.choice(common)) if len(world.priors) > 2 else 1
        for kind in DAMAGES:
            yield f"harm: {kind}", stops("post_hoc", drawn, damaged(kind, drawn.finalists["post_hoc"], k, rng))


#: Names of the guards that look at accuracy, AURC and the other score; all others look at classes.
OF_ALL_ROWS = {"accuracy_drop", "aurc_rise", "nll_rise", "brier_rise"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=50, help="draws of every world")
    parser.add_argument("--calibration", type=int, default=2000)
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    began = time.perf_counter()
    judged, by_all, by_classes = Counter[str](), Counter[str](), Counter[str]()
    names: dict[str, Counter[str]] = {}
    for world in WORLDS:
        for what, guards in one_world(world, options.calibration, options.test, options.draws):
            judged[what] += 1
            by_all[what] += bool(guards)
            by_classes[what] += bool(set(guards) - OF_ALL_ROWS)
            names.setdefault(what, Counter()).update(guards)
        print(f"{world.name}: {time.perf_counter() - began:.0f} s", flush=True)
    print("\n| finalist | judged | stopped | by the guards of classes and confident answers | by each (%) |")
    print("|---|---|---|---|---|")
    for what in sorted(judged):
        each = ", ".join(f"{name} {100 * n / judged[what]:.0f}" for name, n in names[what].most_common())
        both = " | ".join(f"{100 * count[what] / judged[what]:.1f} %" for count in (by_all, by_classes))
        print(f"| {what} | {judged[what]} | {both} | {each} |")


if __name__ == "__main__":
    main()
