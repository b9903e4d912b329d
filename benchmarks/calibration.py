"""The calibration benchmark: `python -m benchmarks.calibration`, in stages that are resumed where they ended.

    python -m benchmarks.calibration --stage bases --settings networks        # base models as ONNX, datasets
    python -m benchmarks.calibration --stage peers --settings networks        # temperature, probmetrics, netcal
    python -m benchmarks.calibration --stage jobs --settings networks         # the worker's functions, in this process
    python -m benchmarks.calibration --stage jobs --scores-alone              # scores only: no features to read
    python -m benchmarks.calibration --stage jobs --method auto               # fine-tuned, in folders beside
    python -m benchmarks.calibration --settings untouched                     # all stages, then the scores

Without `--stage` all run, one after the other, and `benchmarks.calibration_scores` scores what they left. A finished
(setting, seed) lies in the cache folder and is not computed again. What must be installed is in
`benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402

from benchmarks.bases import make_base  # noqa: E402
from benchmarks.data.common import cache_folder  # noqa: E402
from benchmarks.peers import make_peers  # noqa: E402
from benchmarks.settings import SETTINGS  # noqa: E402

Run = tuple[str, int, Path]
SECTIONS = ("networks", "forests", "untouched", "new-tables", "arena", "second-arena", "small")
STAGES = ("bases", "peers", "jobs", "scores")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    stages = [options.stage] if options.stage else STAGES
    if "bases" in stages:
        _each(options, "model.onnx", lambda run: make_base(*run))
    if "peers" in stages:
        _each(options, "peers.npz", lambda run: make_peers(run[2]))
    if "jobs" in stages:
        _jobs(options)
    if "scores" in stages:
        subprocess.run([sys.executable, "-m", "benchmarks.calibration_scores"], check=True)


def _jobs(options: argparse.Namespace) -> None:
    """Run the jobs that are missing; runs without a base are left for later."""
    from benchmarks.jobs import Order, run_jobs, run_scores

    runs = [run for run in selected(options.settings, options.seeds) if (run[2] / "model.onnx").exists()]
    if options.scores_alone:
        run_scores(runs)
    else:
        run_jobs(runs, Order(options.method, options.minutes))


def _each(options: argparse.Namespace, file: str, compute: Callable[[Run], None]) -> None:
    """Compute what is missing, run by run."""
    for run in selected(options.settings, options.seeds):
        if not (run[2] / file).exists():
            began = time.perf_counter()
            compute(run)
            print(f"{file} of {run[0]}, seed {run[1]}: {time.perf_counter() - began:.0f} s", flush=True)


def selected(settings: Sequence[str], seeds: Sequence[int] | None = None) -> Iterator[Run]:
    """Every setting with its first seed, then with the next, and the folder of its base."""
    place = cache_folder() / "calibration"
    for seed in seeds or range(1 + max(max(SETTINGS[name].seeds) for name in settings)):
        for name in settings:
            if seeds or seed in SETTINGS[name].seeds:
                yield name, seed, place / f"{name}-{seed}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES)
    default = [name for name, setting in SETTINGS.items() if setting.section in ("networks", "forests")]
    parser.add_argument("--settings", type=settings_named, default=default, help="names or sections with commas")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--scores-alone", action="store_true", help="jobs get scores only, and no features")
    parser.add_argument("--method", default="post_hoc", help="method of the jobs")
    parser.add_argument("--minutes", type=float, default=30.0, help="budget of a job")
    options: argparse.Namespace = parser.parse_args()
    return options


def settings_named(text: str) -> list[str]:
    names = []
    for part in text.split(","):
        section = [name for name, setting in SETTINGS.items() if setting.section == part]
        if not section and part not in SETTINGS:
            raise argparse.ArgumentTypeError(f"unknown: {part}; known: {', '.join((*SECTIONS, *SETTINGS))}")
        names += section or [part]
    return names


if __name__ == "__main__":
    main()
