"""AdamW's rate for restarts of transformers that were trained from scratch: NLL out of fold and on hidden rows.

Run it with `python benchmarks/transformer_rates.py`. 2,000 train rows or `--train`, 1,000 calibration rows, 3
folds and a refit, each with a temperature; synopses of Debian packages as 16 words, and Fashion-MNIST as 16
patches.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` is a package

from benchmarks.data.common import Split  # noqa: E402
from benchmarks.data.images import fashion  # noqa: E402
from benchmarks.mistakes.words import LENGTH, NUM_WORDS, words  # noqa: E402
from benchmarks.networks import BaseTraining, Headed, train_base  # noqa: E402
from fedlas import metrics  # noqa: E402
from fedlas.calibrators import TemperatureScaling  # noqa: E402
from fedlas.race.candidate_training import train_config  # noqa: E402
from fedlas.race.candidates import DEFAULTS, Candidate, make_loss  # noqa: E402
from fedlas.race.context import TrainingRows  # noqa: E402
from fedlas.race.scoring import make_folds  # noqa: E402
from fedlas.training.fit import fit, predict_logits  # noqa: E402

_HIDDEN, _PATCH = 4000, 7
_BASE = BaseTraining(epochs=30, learning_rate=1e-3, optimizer="adamw")


class Encoder(nn.Module):
    """Tokens (N, T) or patches of images (N, 1, 28, 28) through encoder layers to their mean (N, width)."""

    def __init__(self, width: int, layers: int, *, patches: bool) -> None:
        super().__init__()
        self.first = nn.Linear(_PATCH * _PATCH, width) if patches else nn.Embedding(NUM_WORDS, width)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = nn.functional.unfold(x, _PATCH, stride=_PATCH).transpose(1, 2)
        mean: Tensor = self.encoder(self.first(x) + self.positions).mean(dim=1)
        return mean


def build(task: str, num_classes: int, width: int = 64, layers: int = 2) -> Headed:
    """The untrained network of a task."""
    return Headed(Encoder(width, layers, patches=task == "fashion"), width, num_classes)


def rows_of(task: str, seed: int, num_train: int) -> Split:
    """The rows of a task, as many as are used."""
    split = words(seed, mask=False) if task == "words" else fashion(seed)
    (train, labels), (hidden, targets) = split.train, split.hidden
    return replace(
        split, train=([train[0][:num_train]], labels[:num_train]), hidden=([hidden[0][:_HIDDEN]], targets[:_HIDDEN])
    )


def scores(network: Headed, split: Split, candidate: Candidate | None, seed: int) -> tuple[float, float]:
    """NLL out of fold and on hidden rows with the temperature of the former; without a candidate, as uploaded."""
    rows, targets = TrainingRows.of(split.train, split.calibration), split.calibration[1]

    def trained(left_out: NDArray[np.int64] | None) -> Headed:
        if candidate is None:
            return network
        mine, kept = copy.deepcopy(network), None if left_out is None else rows.without(left_out)
        loss, config = make_loss(candidate, network.num_classes, seed=seed), train_config(candidate, seed)
        fit(mine, loss, rows.inputs, rows.targets, config, rows=kept, device="cpu")
        return mine

    logits = np.empty((len(targets), network.num_classes), np.float32)
    for fold in make_folds(targets, seed=seed):
        logits[fold] = predict_logits(trained(fold), split.calibration[0], rows=fold)[0]
    scaling = TemperatureScaling().fit(logits, targets)
    hidden = predict_logits(trained(None), split.hidden[0])[0]
    out_of_fold, on_hidden = (
        float(metrics.nll(softmax(np.asarray(scaling(z), np.float64), axis=1), y))
        for z, y in ((logits, targets), (hidden, split.hidden[1]))
    )
    return out_of_fold, on_hidden


def candidates() -> list[Candidate]:
    """Those to compare: cross-entropy at both rates, and the losses of FedLAS at the higher one."""
    common: dict[str, Any] = {"scope": "all", "optimizer": "adamw", "weight_decay": 0.01}
    losses: dict[str, dict[str, Any]] = {
        name: {**DEFAULTS[name], "momentum": 0.001, "alpha": alpha}
        for name, alpha in (("fedlas_plus", 0.1), ("fedlas", 0.05))
    }
    return [
        *(Candidate("cross_entropy", rate, epochs=4, **common) for rate in (1e-4, 1e-3)),
        Candidate("fedlas_plus", 1e-3, epochs=4, **losses["fedlas_plus"], **common),
        Candidate("cross_entropy", 1e-3, epochs=8, **common),
        Candidate("fedlas", 1e-3, epochs=4, **losses["fedlas"], **common),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tasks", nargs="+", default=["words", "fashion"])
    parser.add_argument("--train", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for task in arguments.tasks:
        for seed in arguments.seeds:
            split = rows_of(task, seed, arguments.train)
            network = train_base(
                partial(build, task, split.num_classes), split.train, _BASE, seed=seed, name=f"transformer-{task}-64-2"
            )
            for one in (None, *candidates()):
                found = [round(x, 4) for x in scores(network, split, one, seed)]
                print(json.dumps([task, seed, "uploaded" if one is None else one.name, *found]), flush=True)


if __name__ == "__main__":
    main()
