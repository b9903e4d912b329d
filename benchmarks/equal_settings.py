"""Losses in equal settings: what FedLAS's gate adds to label smoothing and to a margin, on twenty tables.

    python -m benchmarks.calibration --stage bases --settings networks,untouched --seeds 0
    OMP_NUM_THREADS=1 python -m benchmarks.equal_settings
    OMP_NUM_THREADS=1 python -m benchmarks.equal_settings --seed 1 --losses "FedLAS+,FedLAS+ without gate"

Every loss restarts the same MLP 128-128 on train and calibration rows as a race does: three folds, whose out-of-fold
logits give a temperature, and one network on all rows, which is scored on hidden rows with that temperature. Rate,
steps, decay, batches and their order are equal for all. With β = 0 the gate of FedLAS+ is switched off and all else
stays: every row has the smoothing α. FedLAS with β = 0 is label smoothing. A pair is better or worse as
`benchmarks.calibration_scores` says.

The tables are the first twenty of the calibration benchmark's 37 in the order of the SHA-256 of their names, one seed
each, the smallest first. No recipe is chosen by them here, but the recipe of FedLAS+ was found on some of them.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.calibration_scores import Floats, Integers, interval, outcome, row_scores
from benchmarks.data.common import Array
from benchmarks.networks import Headed
from benchmarks.settings import load
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.race.candidates import Candidate, make_loss
from fedlas.race.results import make_folds
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import TrainConfig

#: Train and calibration rows at most, the first of each: a table takes ten seconds of one core.
CAPS = (1500, 500)
HOW = TrainConfig(epochs=10, batch_size=64, learning_rate=0.2, weight_decay=0.001)
NUM_FOLDS = 3
TABLES = (
    *("income", "segment", "lending_club", "twonorm", "stackoverflow", "ring", "car-good"),
    *("german", "yeast1", "texture", "shuttle", "spam", "cells", "vowel"),
    *("mushroom", "contraceptive", "penbased", "churn", "titanic", "chess"),
)
LOSSES = {
    "FedLAS": Candidate("fedlas", alpha=0.1, beta=4.0, momentum=0.95),
    "FedLAS+": Candidate("fedlas_plus", alpha=0.1, beta=0.5, momentum=0.95, margin=6.0),
    "FedLAS+ without gate": Candidate("fedlas_plus", alpha=0.1, beta=0.0, momentum=0.95, margin=6.0),
    "MbLS": Candidate("mbls", alpha=0.1, margin=6.0),
    "label smoothing": Candidate("label_smoothing", alpha=0.1),
    "cross-entropy": Candidate("cross_entropy"),
}
#: The first against the second; the first three are the gate alone.
PAIRS = (
    ("FedLAS", "label smoothing"),
    ("FedLAS+", "FedLAS+ without gate"),
    ("FedLAS+", "MbLS"),
    ("FedLAS+", "FedLAS"),
    ("FedLAS+", "label smoothing"),
    ("FedLAS+", "cross-entropy"),
    ("FedLAS", "cross-entropy"),
    ("MbLS", "label smoothing"),
    ("MbLS", "cross-entropy"),
    ("label smoothing", "cross-entropy"),
)
KINDS = ("nll", "brier")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows, and of the gate")
    parser.add_argument("--losses", type=lambda text: text.split(","), default=list(LOSSES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [pair for pair in PAIRS if set(pair) <= set(options.losses)]
    counts = {pair: {kind: Counter[str]() for kind in KINDS} for pair in pairs}
    changes: dict[tuple[str, str], dict[str, list[float]]] = {pair: {kind: [] for kind in KINDS} for pair in pairs}
    print(f"| table | {' | '.join(options.losses)} |\n|---|{'---|' * len(options.losses)}")
    for table in sorted(TABLES, key=lambda name: len(load(name)[1].train[1])):
        scores = table_scores(table, options.losses, options.seed)
        told = [f"{rows['nll'].mean():.4f}" for rows in scores.values()]
        print(f"| {table} | {' | '.join(told)} |", flush=True)
        for pair in pairs:
            for kind in KINDS:
                mean, low, high = interval(scores[pair[0]][kind] - scores[pair[1]][kind])
                counts[pair][kind][outcome(low, high)] += 1
                changes[pair][kind].append(mean)
    print("\n| | NLL better/same/worse | mean ΔNLL | Brier better/same/worse | mean ΔBrier |\n|---|---|---|---|---|")
    for pair in pairs:
        told = []
        for kind in KINDS:
            told.append("/".join(str(counts[pair][kind][name]) for name in ("better", "same", "worse")))
            told.append(f"{np.mean(changes[pair][kind]):+.4f}")
        print(f"| {' against '.join(pair)} | {' | '.join(told)} |")


def table_scores(table: str, losses: Sequence[str], seed: int) -> dict[str, dict[str, Floats]]:
    """NLL and Brier score of every hidden row, by loss."""
    base, split = load(table)
    parts = [(x[0][:most], y[:most]) for (x, y), most in zip((split.train, split.calibration), CAPS, strict=True)]
    inputs, targets = [np.concatenate([part[0] for part in parts])], np.concatenate([part[1] for part in parts])
    fresh = np.arange(len(parts[0][1]), len(targets))
    folds = [fresh[rows] for rows in make_folds(targets[fresh], seed=0, num_folds=NUM_FOLDS)]
    found = {}
    for name in losses:
        out_of_fold = np.empty((len(targets), split.num_classes))
        for fold in folds:
            network = trained(base, name, seed, inputs[0], targets, np.setdiff1d(np.arange(len(targets)), fold))
            out_of_fold[fold] = predict_logits(network, inputs, rows=fold, device="cpu")[0]
        temperature = TemperatureScaling().fit(out_of_fold[fresh], targets[fresh])
        network = trained(base, name, seed, inputs[0], targets, np.arange(len(targets)))
        probs = softmax(temperature(predict_logits(network, split.hidden[0], device="cpu")[0]))
        found[name] = {kind: row_scores(probs, split.hidden[1], kind) for kind in KINDS}
    return found


def trained(base: Headed, name: str, seed: int, inputs: Array, targets: Integers, rows: Integers) -> Headed:
    """A copy of the base, restarted with a loss on some of the rows."""
    network = copy.deepcopy(base)
    loss = make_loss(LOSSES[name], network.num_classes, seed=seed)
    if fit(network, loss, [inputs], targets, replace(HOW, seed=seed), rows=rows, device="cpu").diverged:
        raise RuntimeError(f"{name} diverged")
    return network


if __name__ == "__main__":
    main()
