"""The calibration benchmark: `python -m benchmarks.calibration`, in stages that are resumed where they ended.

    python -m benchmarks.calibration --stage bases --settings networks        # base models as ONNX, datasets
    python -m benchmarks.calibration --stage peers --settings networks        # temperature, probmetrics, netcal
    python -m benchmarks.calibration --stage jobs --settings networks         # the service, over HTTP
    python -m benchmarks.calibration --stage jobs --through worker            # the worker's functions, in one process
    python -m benchmarks.calibration --stage jobs --through scores            # scores only: no features to read
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
from collections.abc import Callable, Iterator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402

from benchmarks.bases import make_base  # noqa: E402
from benchmarks.data.common import cache_folder  # noqa: E402
from benchmarks.peers import make_peers  # noqa: E402
from benchmarks.settings import SETTINGS  # noqa: E402

SECTIONS = ("networks", "forests", "untouched", "large")
STAGES = ("bases", "peers", "jobs", "scores")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    stages = [options.stage] if options.stage else STAGES
    if "bases" in stages:
        _each(options, "model.onnx", lambda name, seed: make_base(name, seed, _folder(name, seed)))
    if "peers" in stages:
        _each(options, "peers.npz", lambda name, seed: make_peers(_folder(name, seed)))
    if "jobs" in stages:
        _jobs(options)
    if "scores" in stages:
        subprocess.run([sys.executable, "-m", "benchmarks.calibration_scores"], check=True)


def _jobs(options: argparse.Namespace) -> None:
    """Run the jobs that are missing; runs without a base are left for later."""
    from benchmarks.jobs import missing_jobs, run_jobs
    from benchmarks.worker_jobs import run_in_worker, run_scores

    runs = [(name, seed, _folder(name, seed)) for name, seed in _runs(options)]
    missing = missing_jobs([run for run in runs if (run[2] / "model.onnx").exists()])
    if options.through == "scores":
        run_scores(runs)
    elif options.through == "worker":
        run_in_worker(missing, method=options.method)
    elif missing:
        run_jobs(missing, at_once=options.at_once, method=options.method)


def _each(options: argparse.Namespace, file: str, compute: Callable[[str, int], None]) -> None:
    """Compute what is missing, run by run."""
    for name, seed in _runs(options):
        if not (_folder(name, seed) / file).exists():
            began = time.perf_counter()
            compute(name, seed)
            print(f"{file} of {name}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)


def _runs(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Every setting with its first seed, then with the next."""
    for seed in options.seeds or range(1 + max(max(SETTINGS[name].seeds) for name in options.settings)):
        for name in options.settings:
            if options.seeds or seed in SETTINGS[name].seeds:
                yield name, seed


def _folder(name: str, seed: int) -> Path:
    return cache_folder() / "calibration" / f"{name}-{seed}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES)
    default = [name for name, setting in SETTINGS.items() if setting.section in ("networks", "forests")]
    parser.add_argument("--settings", type=_settings, default=default, help="names or sections with commas")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--at-once", type=int, default=2, help="jobs at once over HTTP")
    parser.add_argument("--through", choices=("http", "worker", "scores"), default="http", help="what is asked")
    parser.add_argument("--method", default="post_hoc", help="method of the jobs")
    options: argparse.Namespace = parser.parse_args()
    return options


def _settings(text: str) -> list[str]:
    names = []
    for part in text.split(","):
        section = [name for name, setting in SETTINGS.items() if setting.section == part]
        if not section and part not in SETTINGS:
            raise argparse.ArgumentTypeError(f"unknown: {part}; known: {', '.join((*SECTIONS, *SETTINGS))}")
        names += section or [part]
    return names


if __name__ == "__main__":
    main()
