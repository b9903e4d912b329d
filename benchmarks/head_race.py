"""What a race of heads over a frozen `resnet18` costs, beside one inference pass over the same rows; it judges nothing.

Run it with `python benchmarks/head_race.py`. The rows are Fashion-MNIST images on three channels (the Debian package
`dataset-fashion-mnist`); the network is torchvision's with random weights, since only the time is looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` is a package

from benchmarks.data.images import fashion  # noqa: E402
from benchmarks.networks import resnet18  # noqa: E402
from fedlas.race.context import TrainingRows  # noqa: E402
from fedlas.race.race import run_race  # noqa: E402
from fedlas.race.recipe import make_candidates  # noqa: E402
from fedlas.training.fit import predict_logits  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    split = fashion(0, channels=3)
    images = np.concatenate([split.hidden[0][0], split.train[0][0]])[: arguments.rows]
    targets = np.concatenate([split.hidden[1], split.train[1]])[: arguments.rows]
    fitting = arguments.rows * 4 // 5
    network = resnet18(10)
    predict_logits(network, [images[:256]])  # warm
    began = time.perf_counter()
    predict_logits(network, [images])
    one_pass = time.perf_counter() - began
    candidates = make_candidates("auto", {"scope": "head"})
    began = time.perf_counter()
    run_race(
        network,
        training=TrainingRows([images], targets, np.arange(fitting, arguments.rows)),
        calibration=([images[fitting:]], targets[fitting:]),
        candidates=candidates,
        budget_seconds=1e6,
    )
    seconds = time.perf_counter() - began
    found = {
        "rows": arguments.rows,
        "threads": arguments.threads,
        "candidates": len(candidates),
        "one_pass_seconds": round(one_pass, 2),
        "race_seconds": round(seconds, 2),
        "limit_seconds": round(2 * one_pass + 10, 2),
    }
    print(json.dumps(found))
    (Path(__file__).parent / "results" / "head_race.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
