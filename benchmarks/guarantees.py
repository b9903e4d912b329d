"""Redraws guarantee rows and counts how often their promises break, and measures what typicality tells.

Run it with `python -m benchmarks.guarantees`. The official 10,000 test rows of Fashion-MNIST are the population:
guarantee rows are drawn from them with replacement, so that the true error of every threshold is known exactly. The
tables go to standard output.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import beta
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.data.common import Array
from benchmarks.data.images import FASHION_CLASSES, mnist
from benchmarks.settings import load
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.classifier import Classifier
from fedlas.guarantees import Guarantees, Unreachable
from fedlas.guarantees.typicality import Typicality

LEVELS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
COVERAGES = (0.8, 0.9, 0.95, 0.99)
SIZES = (300, 1000, 3000)
SHOWN = (0.01, 0.02, 0.05, 0.1)
Json = dict[str, Any]


@dataclass(frozen=True)
class Population:
    """Rows with known truth."""

    probs: Array
    targets: Array

    @property
    def confidences(self) -> Array:
        return self.probs.max(1).astype(np.float32).astype(np.float64)

    @property
    def wrong(self) -> Array:
        wrong: Array = self.probs.argmax(1) != self.targets
        return wrong

    @property
    def scores(self) -> Array:
        scores: Array = 1 - self.probs[np.arange(len(self.targets)), self.targets]
        return scores


# --- promises -------------------------------------------------------------------------------------------------------


def redraw(population: Population, num_rows: int, draws: int, seed: int) -> Json:
    """How often the promises of `num_rows` rows break over so many draws."""
    rng = np.random.default_rng([seed, num_rows])
    confidences, wrong, targets = population.confidences, population.wrong, population.targets
    broken = by_class = 0
    answered: dict[float, list[float]] = {level: [] for level in SHOWN}
    covered: dict[float, list[float]] = {level: [] for level in COVERAGES}
    class_covered: list[float] = []
    class_promised = 0
    for _ in range(draws):
        at = rng.integers(len(targets), size=num_rows)
        found = Guarantees.fit(population.probs[at], targets[at], class_names=FASHION_CLASSES)
        breaks = False
        for level in LEVELS:
            kept = confidences >= threshold(found, level)
            breaks |= bool(kept.any() and wrong[kept].mean() > level)
            if level in answered:
                answered[level].append(float(kept.mean()))
        broken += breaks
        worst, promised = _class_breaks(found, confidences, wrong, targets)
        by_class += worst
        class_promised += promised
        for coverage in covered:
            if (limit := found.quantiles.at(coverage)) is not None:
                covered[coverage].append(float((population.scores <= limit).mean()))
        if all(q.at(0.9) is not None for q in found.class_quantiles):
            inside = population.scores <= found.check_coverage({"class": 0.9})[targets]
            class_covered.append(float(np.mean([inside[targets == k].mean() for k in range(len(FASHION_CLASSES))])))
    return {
        "rows": num_rows,
        "draws": draws,
        "max_error_broken_at_any_level": broken,
        "max_error_by_class_broken_at_any_level": by_class,
        "by_class_promises_per_draw": class_promised / draws,
        "answered": {str(level): float(np.mean(shares)) for level, shares in answered.items()},
        "coverage": {str(c): _law(c, num_rows, values) for c, values in covered.items() if values},
        "coverage_by_class_0.9": {"draws": len(class_covered), "mean": float(np.mean(class_covered or [math.nan]))},
    }


def threshold(found: Guarantees, level: Any) -> float:
    """Infinity where nothing can be promised."""
    try:
        return found.threshold_for(level)
    except Unreachable:
        return math.inf


def _class_breaks(found: Guarantees, confidences: Array, wrong: Array, targets: Array) -> tuple[bool, int]:
    """True where a class's error exceeds a level that was promised for every class, and how many were promised."""
    breaks, promised = False, 0
    for level in LEVELS:
        kept = confidences >= threshold(found, {"class": level})
        promised += bool(kept.any())
        for k in range(len(FASHION_CLASSES)):
            of_class = kept & (targets == k)
            breaks |= bool(of_class.any() and wrong[of_class].mean() > level)
    return breaks, promised


def _law(coverage: float, num_rows: int, values: list[float]) -> Json:
    """The coverage found, and how many draws lie outside the central 95 % of its beta law (about 1 in 20 should)."""
    rank = math.ceil((num_rows + 1) * coverage - 1e-9)
    law = beta(rank, num_rows + 1 - rank)
    low, high = law.ppf([0.025, 0.975])
    outside = sum(not low <= value <= high for value in values)
    return {"mean": float(np.mean(values)), "expected": float(law.mean()), "outside_95": outside}


# --- corruption -----------------------------------------------------------------------------------------------------


def corruptions() -> dict[str, Callable[[Tensor], Tensor]]:
    """Corruptions that a camera may meet, mild and strong."""
    return {
        "clean": lambda x: x,
        "noise 0.1": lambda x: _noise(x, 0.1),
        "noise 0.3": lambda x: _noise(x, 0.3),
        "blur 3×3": lambda x: F.avg_pool2d(x, 3, 1, 1),
        "blur 5×5": lambda x: F.avg_pool2d(x, 5, 1, 2),
        "rotation 10°": lambda x: _rotated(x, 10),
        "rotation 30°": lambda x: _rotated(x, 30),
    }


def _noise(images: Tensor, strength: float) -> Tensor:
    return (images + strength * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def _rotated(images: Tensor, degrees: float) -> Tensor:
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def corrupted(
    network: Classifier, calibrator: TemperatureScaling, typicality: Typicality, images: Array, targets: Array
) -> list[Json]:
    """Promises of 3,000 clean guarantee rows, and how they hold on the other 7,000 rows, clean and corrupted."""
    logits, _ = outputs(network, torch.from_numpy(images[:3000]))
    found = Guarantees.fit(softmax(calibrator(logits)), targets[:3000], class_names=FASHION_CLASSES)
    limit, labels = threshold(found, 0.05), targets[3000:]
    lines = []
    for name, change in corruptions().items():
        logits, features = outputs(network, change(torch.from_numpy(images[3000:])))
        probs = softmax(calibrator(logits))
        kept, wrong = probs.max(1) >= limit, probs.argmax(1) != labels
        sets = found.prediction_sets(probs, 0.9)
        lines.append(
            {
                "rows": name,
                "accuracy": float(1 - wrong.mean()),
                "answered": float(kept.mean()),
                "error_of_answers_promised_0.05": float(wrong[kept].mean()),
                "coverage_promised_0.9": float(sets[np.arange(len(labels)), labels].mean()),
                "typicality_at_most_0.05": float((typicality(features) <= 0.05).mean()),
            }
        )
    return lines


# --- typicality ----------------------------------------------------------------------------------------------------


def aurocs(network: Classifier, calibration: tuple[Array, Array], images: Array, digits: Array) -> Json:
    """Fashion-MNIST (in) against MNIST (out): 1 means that every digit looks stranger than every garment."""
    _, known = outputs(network, torch.from_numpy(calibration[0]))
    inside, outside = (outputs(network, torch.from_numpy(part)) for part in (images, digits))
    is_digit = np.repeat([0, 1], [len(images), len(digits)])
    features = np.concatenate([inside[1], outside[1]])
    result = {"1 - max softmax": roc_auc_score(is_digit, -softmax(np.concatenate([inside[0], outside[0]])).max(1))}
    result["short norm ‖f‖₁"] = roc_auc_score(is_digit, -np.abs(features).sum(1))
    for score in ("norm", "mahalanobis"):
        fitted = Typicality.fit(known, calibration[1], score=score)
        result[score] = roc_auc_score(is_digit, fitted.distance(features))
        result[f"{score}, as served"] = roc_auc_score(is_digit, -fitted(features))
    return {name: float(value) for name, value in result.items()}


@torch.no_grad()
def outputs(network: Classifier, images: Tensor) -> tuple[Array, Array]:
    """Logits and features in float64."""
    parts = [network.eval()(images[i : i + 500]) for i in range(0, len(images), 500)]
    logits, features = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    return logits, features


# --- program --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    found: Json = {"promises": [], "typicality": []}
    for seed in options.seeds:
        network, split = load("fashion", seed)
        images, (calibration, labels) = split.hidden[0][0], (split.calibration[0][0], split.calibration[1])
        digits = np.concatenate([rows[0][0] for rows in (mnist(0).calibration, mnist(0).test, mnist(0).train)])
        found["typicality"].append(aurocs(network, (calibration, labels), images, digits.reshape(-1, 1, 28, 28)))
        if seed != options.seeds[0]:
            continue
        logits, features = outputs(network, torch.from_numpy(calibration))
        calibrator = TemperatureScaling().fit(logits, labels)
        population = Population(softmax(calibrator(outputs(network, torch.from_numpy(images))[0])), split.hidden[1])
        found["promises"] = [redraw(population, size, options.draws, seed) for size in SIZES]
        found["corrupted"] = corrupted(network, calibrator, Typicality.fit(features, labels), images, split.hidden[1])
    found["seconds"] = round(time.perf_counter() - began, 1)
    show(found)


def show(found: Json) -> None:
    """Markdown tables."""
    answered = " | ".join(f"answered at {level:.0%}" for level in SHOWN)
    print(
        f"| guarantee rows | draws | broken | broken by class | {answered} | coverage at 0.9 (outside its 95 % band) |"
    )
    print("|---" * (5 + len(SHOWN)) + "|")
    for line in found["promises"]:
        shares = " | ".join(f"{100 * share:.0f} %" for share in line["answered"].values())
        cover = line["coverage"]["0.9"]
        print(
            f"| {line['rows']:,} | {line['draws']} | {line['max_error_broken_at_any_level']} "
            f"| {line['max_error_by_class_broken_at_any_level']} | {shares} "
            f"| {cover['mean']:.3f}, expected {cover['expected']:.3f} ({cover['outside_95']}) |"
        )
    print(
        "\n| rows | accuracy | answered | error of answers (promised: 5 %) | coverage (promised: 90 %) "
        "| typicality ≤ 5 % |"
    )
    print("|---" * 6 + "|")
    for line in found["corrupted"]:
        print(f"| {line['rows']} | " + " | ".join(f"{100 * v:.1f} %" for v in list(line.values())[1:]) + " |")
    print("\n| score | AUROC, Fashion-MNIST against MNIST, by seed |\n|---|---|")
    for name in found["typicality"][0]:
        print(f"| {name} | {', '.join(f'{line[name]:.3f}' for line in found['typicality'])} |")
    print(f"\n{found['seconds']} s")


if __name__ == "__main__":
    main()
