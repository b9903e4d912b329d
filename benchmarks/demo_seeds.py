"""Twenty demos: the network of `make demo` with the seeds 0 to 19, each through a job of default options.

    OMP_NUM_THREADS=1 python -m benchmarks.demo_seeds --bases        # networks and rows alone, kept in the cache folder
    OMP_NUM_THREADS=1 python -m benchmarks.demo_seeds                # what is missing of them, then the jobs
    OMP_NUM_THREADS=1 python -m benchmarks.demo_seeds --deal-rows    # the seed also deals out the rows

Seeds and columns were committed before any job ran. A network learns 1,000 digits of which 15 % have another label; a
job gets 1,000 rows to calibrate, 500 for guarantees and 2,000 to test, by the worker's functions in this process. The
*gap* is mean confidence minus accuracy of the served file. Its error is sqrt(v/calibration rows + v/rows scored), where
v is the variance of confidence minus right on the test rows: chance of the rows that the model was calibrated on, and
of those that it is scored on. Without `--deal-rows` all runs share their rows, and therefore their luck with them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.calibration_scores import signed_gap  # noqa: E402
from benchmarks.data.common import cache_folder, results_file  # noqa: E402
from benchmarks.jobs import probabilities, told_of, worker_job  # noqa: E402
from fedlas.metrics import brier, nll  # noqa: E402
from worker import demo_model  # noqa: E402

Json = dict[str, Any]
SEEDS = tuple(range(20))
#: The report's words for a gap that is more than chance explains.
_ACCUSED = re.compile(r"points too (sure|cautious), more than")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    runs: list[Json] = []
    for seed in options.seeds:
        folder = base_of(seed, deal_rows=options.deal_rows)
        if options.bases:
            continue
        with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
            runs.append({"seed": seed} | served_of(folder, Path(scratch)))
        print(_line(runs[-1]), flush=True)
        path = results_file(f"demo_seeds{'_dealt' if options.deal_rows else ''}")
        path.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n")
    if runs:
        print(summary(runs))


def base_of(seed: int, *, deal_rows: bool) -> Path:
    """The folder of `digits.onnx`, `digits.npz` and `fresh.npz` of one demo; made once."""
    folder = cache_folder() / "demo-seeds" / f"{'dealt-' if deal_rows else ''}{seed}"
    if not (folder / "fresh.npz").exists():  # it is written last
        folder.mkdir(parents=True, exist_ok=True)
        demo_model.main(folder, seed=seed, rows=seed if deal_rows else 0)
        print(f"network of seed {seed}", file=sys.stderr, flush=True)
    return folder


def served_of(folder: Path, scratch: Path) -> Json:
    """The model that a job serves and its report, judged on its test rows and on the 500 fresh ones."""
    given = folder / "digits.onnx", folder / "digits.npz", {"method": "auto"}
    job = worker_job(*given, scratch)
    sent, fresh = np.load(folder / "digits.npz"), np.load(folder / "fresh.npz")
    test = sent["split"] == "test"
    parts = {"test": (sent["x"][test], sent["label"][test]), "fresh": (fresh["x"], fresh["label"])}
    scored: dict[str, Json] = {}
    for name, (rows, targets) in parts.items():
        probs = probabilities(job.file, {"input": rows})  # so the exporter calls it; the dataset's `x` is matched to it
        right = (probs.argmax(1) == targets).mean()
        scores = {"accuracy": right, "nll": nll(probs, targets), "brier": brier(probs, targets)}
        scored[name] = {key: float(value) for key, value in scores.items()} | signed_gap(probs, targets)
    for name, (_, targets) in parts.items():
        rows_of = 1 / demo_model.COUNTS["calibration"] + 1 / len(targets)
        scored[name]["gap_error"] = (scored["test"]["gap_variance"] * rows_of) ** 0.5
    return told_of(job.report) | job.seconds | scored | {"accused": bool(_ACCUSED.search(job.report["advice"][0]))}


def _line(run: Json) -> str:
    parts = [f"seed {run['seed']:2}", f"{run['served']:<10}"]
    for name in ("test", "fresh"):
        found = run[name]
        says, right, gap, error = (100 * found[key] for key in ("confidence", "accuracy", "gap", "gap_error"))
        parts.append(f"{name}: says {says:.1f}, right {right:.1f}, gap {gap:+.2f} ± {error:.2f} ({gap / error:+.1f})")
    parts.append("too sure or too cautious: " + ("said" if run["accused"] else "not said"))
    parts.append(f"NLL {run['test']['nll']:.3f}, Brier {run['test']['brier']:.3f}, {run['job_seconds']:.0f} s")
    return " | ".join(parts)


def summary(runs: list[Json]) -> str:
    """Gaps in points and how many runs are within two errors, on test rows and on fresh ones; what reports say."""
    lines = []
    for name in ("test", "fresh"):
        gaps, errors = (np.array([run[name][key] for run in runs]) for key in ("gap", "gap_error"))
        within = int((np.abs(gaps) <= 2 * errors).sum())
        lines.append(f"{name}: {within} of {len(runs)} within two errors, mean gap {100 * gaps.mean():+.2f} points")
    said = sum(run["accused"] for run in runs)
    return "\n".join([*lines, f"too sure or too cautious is said of {said} of {len(runs)}"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", action="store_true", help="make networks and rows and stop")
    parser.add_argument("--deal-rows", action="store_true", help="the seed deals out the rows, too")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=SEEDS)
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
