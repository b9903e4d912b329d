"""Fits of a lone temperature on stored logits: which one do a few sure errors not rule?

    python -m benchmarks.calibration --stage bases --settings networks,forests,untouched --seeds 0
    OMP_NUM_THREADS=1 python -m benchmarks.lone_temperature --half even   # the fit is chosen here
    OMP_NUM_THREADS=1 python -m benchmarks.lone_temperature --half odd    # and confirmed here, once

The settings are the folders `NAME-0` of the calibration benchmark, sorted by name; those at even positions are one
half. Every network counts twice: as it is, and with 5 % wrong labels among calibration and hidden rows, which makes
sure errors. Each fit sees calibration rows alone, compressed where the product compresses them, and is scored on
hidden rows. A setting is better or worse as `benchmarks.calibration_scores` says, by at least 2e-4 (Brier) or 5e-4
(NLL). *Sure errors rule* where the temperature of the highest likelihood has a higher Brier score than the upload on
the very rows that it was fitted on. *Gap*: mean confidence − accuracy, in points.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.calibration_scores import Floats, Integers, cache_folder, interval, outcome, row_scores
from benchmarks.settings import SETTINGS
from fedlas.calibrators import MixtureScaling, TemperatureScaling, softmax
from fedlas.calibrators.compressed import Compressed, compressed
from fedlas.calibrators.mixture import mixed
from fedlas.race.scoring import fit_calibrator
from fedlas.race.selection import CalibratorSelector

WRONG = 0.05
MARGINS = {"nll": 5e-4, "brier": 2e-4}
#: Log temperatures that are tried before the best of them is refined.
_GRID = np.linspace(np.log(0.05), np.log(50), 121)

#: `fit(logits, targets)` is the map from logits to calibrated logits.
Map = Callable[[Floats], Floats]
Fit = Callable[[Floats, Integers], Map]
#: The loss of every row, of probabilities (N, K) and targets (N,).
RowLoss = Callable[[Floats, Integers], Floats]


@dataclass(frozen=True)
class Rows:
    """Logits of calibration rows as a fit sees them, of hidden rows alike, and the upload's probabilities of both."""

    name: str
    calibration: Floats
    targets: Integers
    hidden: Floats
    hidden_targets: Integers
    uploaded: Floats
    says: Floats


def doubted(probs: Floats, targets: Integers, *, share: float) -> Floats:
    """NLL of (1 − ε)·p + ε/K."""
    true = probs[np.arange(len(targets)), targets]
    return np.asarray(-np.log((1 - share) * true + share / probs.shape[1]))


def bent(probs: Floats, targets: Integers, *, bend: float = 2.0) -> Floats:
    """NLL that grows like a logarithm beyond the bend, in the manner of Huber."""
    nll = row_scores(probs, targets, "nll")
    return np.where(nll < bend, nll, bend * (1 + np.log(np.maximum(nll, bend) / bend)))


def trimmed(probs: Floats, targets: Integers, *, share: float = 0.02) -> Floats:
    """NLL of all rows but the worst 2 %."""
    return np.sort(row_scores(probs, targets, "nll"))[: -max(1, int(share * len(targets)))]


def lowest(loss: RowLoss, logits: Floats, targets: Integers) -> float:
    """The temperature of the lowest mean loss: the best of a grid, then of finer ones around it."""
    at, step = _GRID, _GRID[1] - _GRID[0]
    for _ in range(3):
        best = at[np.argmin([loss(softmax(logits / np.exp(u)), targets).mean() for u in at])]
        at, step = np.linspace(best - step, best + step, 21), step / 10
    return float(np.exp(best))


def alone(loss: RowLoss) -> Fit:
    """A temperature of the lowest mean loss."""

    def fit(logits: Floats, targets: Integers) -> Map:
        temperature = lowest(loss, logits, targets)
        return lambda scores: scores / temperature

    return fit


def _fixed_doubt(logits: Floats, targets: Integers, *, share: float) -> Map:
    temperature = lowest(partial(doubted, share=share), logits, targets)
    return lambda scores: mixed(scores / temperature, share)


def _sharpness(logits: Floats, targets: Integers) -> Map:
    return TemperatureScaling(MixtureScaling().fit(logits, targets).temperature)


def _chosen(logits: Floats, targets: Integers) -> Map:
    return fit_calibrator(logits, targets, ("temperature", "mixture"), 0.0, seed=0).calibrator


FITS: dict[str, Fit] = {
    "NLL (today)": lambda logits, targets: TemperatureScaling().fit(logits, targets),
    "Brier": alone(partial(row_scores, kind="brier")),
    "NLL, ε .01, T alone": alone(partial(doubted, share=0.01)),
    "NLL, ε .05, T alone": alone(partial(doubted, share=0.05)),
    "NLL, ε fitted, T alone": _sharpness,
    "NLL, ε .01, both": partial(_fixed_doubt, share=0.01),
    "NLL, ε fitted, both (`mixture`)": lambda logits, targets: MixtureScaling().fit(logits, targets),
    "T, or both where clearly better": _chosen,
    "NLL bent at 2": alone(bent),
    "NLL without the worst 2 %": alone(trimmed),
}
FIRST = "NLL (today)"


def settings(half: str) -> Iterator[Rows]:
    """The rows of one half of the settings, or of all."""
    sections = ("networks", "forests", "untouched")
    names = sorted(path.parent.name for path in cache_folder().glob("*-0/logits.npz"))
    names = [name for name in names if (one := SETTINGS.get(name[:-2])) and one.section in sections]
    for name in names[{"even": 0, "odd": 1, "all": 0}[half] :: 1 if half == "all" else 2]:
        stored, hidden = (np.load(cache_folder() / name / f"{file}.npz") for file in ("logits", "hidden"))
        made = stored["calibration"], stored["targets"], stored["hidden"], hidden["targets"], stored["uploaded"]
        yield _rows(name, *made)
        if SETTINGS[name[:-2]].section != "forests":
            rng, classes = np.random.default_rng(0), made[0].shape[1]
            noisy = [_with_errors(targets, classes, rng) for targets in (made[1], made[3])]
            yield _rows(f"{name}, labels wrong", made[0], noisy[0], made[2], noisy[1], made[4])


def _rows(name: str, calibration: Floats, targets: Integers, hidden: Floats, truth: Integers, says: Floats) -> Rows:
    """The rows as the product's lone temperature sees them."""
    alone = CalibratorSelector(targets, ("temperature",), reads_features=False).calibrate(calibration)
    packs = isinstance(alone.calibrator, Compressed)
    seen = [compressed(logits) if packs else logits for logits in (calibration, hidden)]
    return Rows(name, seen[0], targets, seen[1], truth, says.astype(np.float64), softmax(calibration))


def _with_errors(targets: Integers, num_classes: int, rng: np.random.Generator) -> Integers:
    others = (targets + rng.integers(1, num_classes, len(targets))) % num_classes
    return np.where(rng.random(len(targets)) < WRONG, others, targets)


@dataclass
class Line:
    """What one fit came to over the settings."""

    scores: list[tuple[float, float, float]]
    against: dict[tuple[str, str], Counter[str]]
    harm: int = 0


def scored(rows: Rows, line: Line, probs: Floats, rivals: Mapping[str, Floats]) -> None:
    """Enter the probabilities (N, K) of one setting's hidden rows."""
    truth = rows.hidden_targets
    values = {kind: row_scores(probs, truth, kind) for kind in MARGINS}
    gap = 100 * float(probs.max(axis=1).mean() - (probs.argmax(axis=1) == truth).mean())
    line.scores.append((float(values["nll"].mean()), float(values["brier"].mean()), gap))
    line.harm += bool(values["nll"].mean() > 1.01 * row_scores(rows.uploaded, truth, "nll").mean())
    for rival, others in rivals.items():
        for kind, own in values.items():
            mean, low, high = interval(own - row_scores(others, truth, kind))
            found = outcome(low, high) if abs(mean) >= MARGINS[kind] else "same"
            line.against.setdefault((rival, kind), Counter())[found] += 1


def ruled(rows: Rows) -> bool:
    """Whether sure errors rule the temperature of these calibration rows."""
    fitted = FITS[FIRST](rows.calibration, rows.targets)
    after, before = (row_scores(p, rows.targets, "brier") for p in (softmax(fitted(rows.calibration)), rows.says))
    return bool(after.mean() > before.mean())


def table(title: str, lines: Mapping[str, Line]) -> None:
    """Print the fits below each other."""
    print(f"\n{title}\n\n| fit | NLL | Brier | gap | abs gap | v upload NLL; Brier | v today NLL; Brier | harm |")
    print("|---|---|---|---|---|---|---|---|")
    for name, line in lines.items():
        nll, brier, gap = np.mean(line.scores, axis=0)
        size = np.abs(np.array(line.scores)[:, 2]).mean()
        told = [
            "; ".join(
                "/".join(str(line.against[rival, kind][o]) for o in ("better", "same", "worse")) for kind in MARGINS
            )
            for rival in ("upload", "today")
        ]
        print(f"| {name} | {nll:.4f} | {brier:.4f} | {gap:+.2f} | {size:.2f} | {told[0]} | {told[1]} | {line.harm} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("even", "odd", "all"), default="even")
    parser.add_argument("--rows", type=int, help="fit on so many of the calibration rows, the first")
    options = parser.parse_args(arguments)
    tables: dict[str, dict[str, Line]] = {}
    for rows in settings(options.half):
        part = slice(options.rows)
        seen, targets = rows.calibration[part], rows.targets[part]
        probs = {name: softmax(fit(seen, targets)(rows.hidden)) for name, fit in FITS.items()}
        for title in ["all settings", *(["where sure errors rule"] if ruled(rows) else [])]:
            lines = tables.setdefault(title, {name: Line([], {}) for name in FITS})
            for name, line in lines.items():
                scored(rows, line, probs[name], {"upload": rows.uploaded, "today": probs[FIRST]})
        print(rows.name, "(ruled)" if ruled(rows) else "", flush=True)
    for title, lines in tables.items():
        table(f"{title}: {len(lines[FIRST].scores)}", lines)


if __name__ == "__main__":
    main()
