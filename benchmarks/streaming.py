"""A dataset larger than memory against one in memory: seconds per step and resident set, side by side in one run.

    python -m benchmarks.streaming --gigabytes 6 --memory-gigabytes 2 --folder /tmp

The larger-than-memory run is a process whose memory, page cache included, is limited by a control group, so the file
cannot be cached whole; where no control group can be made it says so and only the resident set is shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.control_groups import control_group
from fedlas.classifier import Classifier
from fedlas.data import Dataset, load_dataset, save_dataset
from fedlas.losses import FedLASLoss
from fedlas.training.fit import fit
from fedlas.training.loop import TrainConfig

SHAPE, BATCH, CLASSES = (3, 64, 64), 64, 10


class Convolutions(Classifier):
    """Four small convolutions: the cheaper the network, the harder it is to feed it in time."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.feature_dim, self.input_names = CLASSES, 64, ("x",)
        channels = (3, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(64, CLASSES)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(inputs[0].float() / 255)
        return self.out(features), features

    def head(self, features: Tensor) -> Tensor:
        return self.out(features)

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.out.parameters())


def write(path: Path, gigabytes: float) -> None:
    """A prepared copy of so many bytes, written piece by piece through a scratch file."""
    rows = int(gigabytes * 2**30 / np.prod(SHAPE))
    rng = np.random.default_rng(0)
    scratch = np.lib.format.open_memmap(path.with_suffix(".npy"), mode="w+", dtype=np.uint8, shape=(rows, *SHAPE))
    block = rng.integers(0, 256, (4096, *SHAPE), dtype=np.uint8)
    for start in range(0, rows, len(block)):
        scratch[start : start + len(block)] = block[: rows - start]
    targets = rng.integers(0, CLASSES, rows)
    names = [str(i) for i in range(CLASSES)]
    save_dataset(Dataset({"x": scratch}, targets, names, True, np.zeros(rows, np.int8)), path)
    path.with_suffix(".npy").unlink()


def measure(path: Path, steps: int, *, in_memory: bool) -> dict[str, Any]:
    """Train for so many steps of shuffled rows and tell what they took."""
    dataset = load_dataset(path, mapped_from=1 << 62 if in_memory else 0)
    inputs, targets = dataset.select("train")
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, resident())

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    times: list[float] = []

    def on_step(_: torch.Tensor) -> bool:
        times.append(time.perf_counter())
        return len(times) < steps

    features = np.ones((len(targets[:1000]), 64), np.float32)  # the pass that initialises the statistics is left out
    config = TrainConfig(epochs=1, batch_size=BATCH, learning_rate=0.01)
    torch.set_num_threads(1)
    fit(Convolutions(), FedLASLoss(CLASSES), list(inputs.values()), targets, config, features=features, on_step=on_step)
    done.set()
    watcher.join()
    warm = len(times) // 10
    return {
        "ms_per_step": 1000 * (times[-1] - times[warm]) / (len(times) - 1 - warm),
        "peak_resident_gb": peak / 2**30,
        "rows": len(targets),
    }


def resident() -> int:
    """This process's resident set in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_cached_files() -> None:
    """Pages that another process has read are outside of the limit; needs root, else the runs share a warm cache."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("1")


def in_child(path: Path, steps: int, *, in_memory: bool, group: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.streaming", "--child", str(path), "--steps", str(steps)]
    child = subprocess.Popen(
        ["/bin/sh", "-c", 'read go; exec "$@"', "sh", *command, *(["--in-memory"] if in_memory else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if group is not None:
        (group / "cgroup.procs").write_text(str(child.pid))
    answer, _ = child.communicate("go\n")
    result: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=6)
    parser.add_argument("--memory-gigabytes", type=float, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--child", type=Path)
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.steps, in_memory=args.in_memory)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "prepared.npz"
        write(path, args.gigabytes)
        results = {"in_memory": [], "larger_than_memory": []}
        with control_group(args.memory_gigabytes * 2**30) as group:
            for _ in range(3):  # turn by turn, since other work shares the machine
                forget_cached_files()
                results["in_memory"].append(in_child(path, args.steps, in_memory=True, group=None))
                forget_cached_files()
                results["larger_than_memory"].append(in_child(path, args.steps, in_memory=False, group=group))
        limited = group is not None
    times = {name: float(np.median([run["ms_per_step"] for run in runs])) for name, runs in results.items()}
    summary = {
        "gigabytes": args.gigabytes,
        "memory_limit_gigabytes": args.memory_gigabytes if limited else None,
        "ratio": times["larger_than_memory"] / times["in_memory"],
        "ms_per_step": times,
        "peak_resident_gb": max(run["peak_resident_gb"] for run in results["larger_than_memory"]),
        "runs": results,
    }
    args.out.write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps({key: value for key, value in summary.items() if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
