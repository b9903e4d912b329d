"""Two pools of the same networks on hidden rows: the log-linear one, and a temperature behind the linear one.

    OMP_NUM_THREADS=1 python -m benchmarks.pool_rivals --runs letter-0,letter-groups-0,letter-weights-0,fashion-0

Each run is a base of `benchmarks.calibration` (`--stage bases`), trained in one job; `-groups` gives its rows the
nearest of sixty of them as a group, `-weights` a weight drawn from an exponential distribution. The members are those
of the job, so that both pools cost the same trainings. Scored as in `benchmarks.calibration_scores`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration_scores import cache_folder, interval, outcome, row_scores
from benchmarks.worker_jobs import worker_job
from fedlas.calibrators import ShrunkenTemperature, softmax, temperature
from fedlas.calibrators.pool import log_pooled, log_probs, pooled
from fedlas.race import race
from fedlas.race.pooling import cross_fitted_mixture
from fedlas.training.fit import predict_logits

Floats = NDArray[np.float64]
#: Standard deviation of the log temperature behind the linear pool, as that of the log-linear one's sum.
PRIOR_OF_TEMPERATURE = 0.25
GROUPS = 60


def members_of(upload: Path, dataset: Path) -> dict[str, Any]:
    """Members of the average of a job's race: the upload's finalist and calibrators, the refits, and the selector."""
    found: dict[str, Any] = {}
    average = race.average

    def recording(uploaded: Any, own: Any, refits: Any, selector: Any, inputs: Any) -> Any:
        found.update(uploaded=uploaded, own=own, refits=refits, selector=selector)
        return average(uploaded, own, refits, selector, inputs)

    request = {"method": "auto", "seed": 0, "budget": {"minutes": 30, "candidates": 6}, "max_cost_factor": 3}
    with patch.object(race, "average", recording), tempfile.TemporaryDirectory() as scratch:
        worker_job(upload, dataset, request, Path(scratch), seen_by_model="train_split")
    return found


def pools_of(found: dict[str, Any], inputs: Sequence[NDArray[Any]]) -> dict[str, Floats]:
    """Probabilities (N, K) of the hidden rows by both pools, with weights of out-of-fold rows."""
    selector = found["selector"]
    held_out = [one.held_out for one in (*found["own"], *found["refits"])]
    logits, features = predict_logits(found["uploaded"].classifier, inputs)
    answers = [one.calibrator(logits, features) for one in found["own"]]
    answers += [one.calibrator(*predict_logits(one.classifier, inputs)) for one in found["refits"]]
    weights, _ = selector.log_mixed(held_out)
    shares = np.ones(len(selector.targets)) if selector.weights is None else selector.weights
    shares = shares / shares.sum()
    linear, _ = cross_fitted_mixture(held_out, selector.targets, shares, selector.folds)
    with patch.object(temperature, "PRIOR", PRIOR_OF_TEMPERATURE):
        behind = ShrunkenTemperature().fit(pooled(held_out, linear), selector.targets, weights=shares)
    return {
        "log-linear": softmax(log_pooled([log_probs(one) for one in answers], weights)),
        "linear + T": softmax(behind(pooled(answers, linear))),
        "linear": softmax(pooled(answers, linear)),
    }


def prepared(base: Path, kind: str, scratch: Path) -> Path:
    """The run's dataset, with a column of groups or weights where its name asks for one."""
    rows = dict(np.load(base / "dataset.npz").items())
    rng = np.random.default_rng(0)
    if kind == "groups":
        flat = next(v for k, v in rows.items() if k not in ("label", "split", "class_names")).reshape(
            len(rows["label"]), -1
        )
        centres = flat[rng.choice(len(flat), GROUPS, replace=False)]
        rows["group"] = ((flat[:, None, :] - centres) ** 2).sum(axis=2).argmin(axis=1)
        for split in np.unique(rows["split"]):  # a group lies in one split
            mine = rows["split"] == split
            rows["group"][mine] += GROUPS * int(np.flatnonzero(np.unique(rows["split"]) == split)[0])
    if kind == "weights":
        rows["weight"] = rng.exponential(size=len(rows["label"]))
    np.savez(scratch / "dataset.npz", **rows)
    return scratch / "dataset.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="letter-0,letter-groups-0,letter-weights-0,fashion-0")
    print(
        "| run | classes | pool | NLL | Brier | gap, points | NLL against log-linear |\n|---|---|---|---|---|---|---|"
    )
    for run in parser.parse_args().runs.split(","):
        name, *kind, seed = run.split("-")
        base = cache_folder() / f"{name}-{seed}"
        with tempfile.TemporaryDirectory() as scratch:
            found = members_of(base / "model.onnx", prepared(base, "".join(kind), Path(scratch)))
        targets = np.load(base / "hidden.npz")["targets"]
        pools = pools_of(found, list(np.load(base / "hidden_inputs.npz").values()))
        ours = row_scores(pools["log-linear"], targets, "nll")
        for pool, probs in pools.items():
            nll, brier = (row_scores(probs, targets, score) for score in ("nll", "brier"))
            gap = 100 * float(probs.max(axis=1).mean() - (probs.argmax(axis=1) == targets).mean())
            value, low, high = interval(nll - ours)
            against = f"{value:+.4f} ({outcome(low, high)})" if pool != "log-linear" else ""
            cells = [run, str(probs.shape[1]), pool, f"{nll.mean():.4f}", f"{brier.mean():.4f}", f"{gap:+.2f}", against]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
