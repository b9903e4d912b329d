"""The arena: calibration methods on the same uploads, by how often each beats a temperature and how often it harms.

    python -m benchmarks.arena                         # forty tables that nothing had touched, three seeds: 15 minutes
    python -m benchmarks.arena --settings networks      # those that development has seen
    python -m benchmarks.arena --fine-tuned             # with default jobs of FedLAS as well, overnight
    python -m benchmarks.arena --method mine:calibrate  # with a method of yours: see below
    python -m benchmarks.arena --picture docs/images/arena.svg

An upload is a network that was trained until it is too sure of itself (`benchmarks.settings`). A method sees its logits
on the calibration rows and their targets, and answers the logits of hidden rows, which are in no file that it gets;
FedLAS sees features, train and test rows as well, as a job does. Whatever a method chooses, it chooses on calibration
rows. One that fails answers as the upload does, and is counted.

A method of yours is a function of a module on the path:

    def calibrate(logits, targets, new_logits):   # (N, K), (N,), (M, K)
        return probabilities                      # (M, K)

Rules of better, worse and harm stand in `benchmarks.data.arena_tables`. A finished answer lies in the cache folder and
is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from string import ascii_uppercase
from typing import Any, TypeAlias

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.special import softmax  # noqa: E402
from scipy.stats import beta  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.frozen import FrozenEstimator  # noqa: E402

from benchmarks import peers  # noqa: E402
from benchmarks.bases import make_base  # noqa: E402
from benchmarks.calibration import selected, settings_named  # noqa: E402
from benchmarks.calibration_scores import interval, outcome, row_scores  # noqa: E402
from benchmarks.calibration_tables import HARM  # noqa: E402
from benchmarks.data.common import results_file  # noqa: E402
from benchmarks.jobs import Order, calibrated, scores_calibrated  # noqa: E402
from benchmarks.peers import Floats, Method, Targets  # noqa: E402
from benchmarks.settings import SETTINGS  # noqa: E402

Json: TypeAlias = dict[str, Any]
Run: TypeAlias = tuple[str, int, Path]
UPLOADED = "as uploaded"
TEMPERATURE = "temperature"
OURS = "FedLAS, no training"
OURS_ALONE = "FedLAS, logits alone"
TUNED = "FedLAS, fine-tuned"
OUTCOMES = ("better", "same", "worse")
#: A smaller mean difference of NLL is a tie, whatever its interval.
MARGIN = 5e-4
_CONFIDENCE = 0.95


class _Logits(ClassifierMixin, BaseEstimator):
    """A fitted classifier of scikit-learn whose inputs are its decisions."""

    def __init__(self, num_classes: int = 2) -> None:
        self.num_classes = num_classes
        self.classes_ = np.arange(num_classes)

    def fit(self, logits: Floats, targets: Targets) -> _Logits:
        return self

    def predict(self, logits: Floats) -> Targets:
        return logits.argmax(axis=1)

    def decision_function(self, logits: Floats) -> Floats:
        return logits[:, 1] - logits[:, 0] if self.num_classes == 2 else logits


def _sklearn(method: str) -> Method:
    def calibrate(logits: Floats, targets: Targets, new: Floats) -> Floats:
        frozen = FrozenEstimator(_Logits(logits.shape[1]))
        answer: Floats = CalibratedClassifierCV(frozen, method=method).fit(logits, targets).predict_proba(new)
        return answer

    return calibrate


def _temperature(logits: Floats, targets: Targets, new: Floats) -> Floats:
    scaled: Floats = softmax(new / peers.fitted_temperature(logits, targets), axis=1)
    return scaled


def _best(choose: Callable[[Floats, Targets, Floats], peers.Peer]) -> Method:
    return lambda logits, targets, new: choose(logits, targets, new).probs


def post_hoc_methods(own: Sequence[str] = ()) -> dict[str, Method]:
    """Methods that see logits alone, by name; `own` are those of the caller, MODULE:FUNCTION."""
    named = [(name, *name.split(":", 1)) for name in own]
    return {
        TEMPERATURE: _temperature,
        **{f"probmetrics {name}": peers.probmetrics_method(name) for name in peers.PROBMETRICS},
        "probmetrics, best": _best(peers.best_of_probmetrics),
        **{f"netcal {name}": peers.netcal_method(name) for name in peers.NETCAL},
        "netcal, best": _best(peers.best_of_netcal),
        **{f"scikit-learn {name}": _sklearn(name) for name in ("sigmoid", "isotonic", "temperature")},
        **{name: getattr(import_module(module), function) for name, module, function in named},
    }


def answer(run: Run, *, own: Sequence[str], fine_tuned: bool) -> None:
    """Leave the probabilities (M, K) of the hidden rows by every method in the run's folder, what is there apart."""
    torch.set_num_threads(1)
    name, seed, base = run
    if not (base / "model.onnx").exists():
        make_base(name, seed, base)
    rows = np.load(base / "logits.npz")
    calibration, targets, hidden = rows["calibration"], rows["targets"], rows["hidden"]
    for method, calibrate in post_hoc_methods(own).items():
        _keep(base, method, partial(peers.quietly, calibrate, calibration, targets, hidden))
    _keep(base, OURS_ALONE, partial(_by_scores, base))
    _keep(base, OURS, partial(_by_job, run, "post_hoc"))
    if fine_tuned:
        _keep(base, TUNED, partial(_by_job, run, "auto"))


def _by_scores(base: Path) -> Floats:
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
        return scores_calibrated(base, Path(scratch))[2]


def _by_job(run: Run, method: str) -> Floats:
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
        told, _, probs = calibrated(run, Order(method), Path(scratch))
    (run[2] / "arena" / f"{method}.json").write_text(json.dumps(told))
    return probs


def _keep(base: Path, method: str, calibrate: Callable[[], Floats]) -> None:
    """Keep an answer; none at all, `(0,)`, of a method that fails."""
    file = _file(base, method)
    if file.exists():
        return
    try:
        probs = calibrate()
    except Exception as error:  # another's library may raise anything
        print(f"{base.name}: {method} failed: {type(error).__name__}: {str(error)[:200]}", flush=True)
        probs = np.empty(0)
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_suffix(".unfinished.npy")
    np.save(unfinished, probs.astype(np.float64))
    unfinished.replace(file)


def _file(base: Path, method: str) -> Path:
    return base / "arena" / f"{method.replace(' ', '-').replace(':', '.')}.npy"


def scored(run: Run, methods: Sequence[str]) -> Iterator[Json]:
    """Each method of a run: its outcome against a temperature, its NLL over the upload's, and whether it failed."""
    name, seed, base = run
    hidden, uploaded = np.load(base / "hidden.npz"), np.load(base / "logits.npz")["uploaded"]
    targets = hidden["targets"]
    stored = {method: np.load(_file(base, method)) for method in methods if _file(base, method).exists()}
    probs = {method: found if found.size else uploaded for method, found in stored.items()} | {UPLOADED: uploaded}
    nll = {method: row_scores(found, targets, "nll") for method, found in probs.items()}
    for method, rows in nll.items():
        mean, low, high = interval(rows - nll[TEMPERATURE])
        yield {
            "table": name,
            "seed": seed,
            "method": method,
            "nll": float(rows.mean()),
            "difference": mean,
            "outcome": outcome(low, high) if abs(mean) > MARGIN else "same",
            "harmed": bool(rows.mean() > HARM * nll[UPLOADED].mean()),
            "failed": method in stored and not stored[method].size,
        }


def standing(results: Sequence[Json], method: str) -> Json:
    """The figures of a method, over runs and over tables; the bound of harm holds for tables at 95 %."""
    mine = [one for one in results if one["method"] == method]
    tables = [[one for one in mine if one["table"] == table] for table in dict.fromkeys(one["table"] for one in mine)]
    runs, of_tables = Counter(one["outcome"] for one in mine), Counter(map(_of_table, tables))
    harmed = sum(any(one["harmed"] for one in table) for table in tables)
    return {
        "method": method,
        "runs": len(mine),
        "tables": len(tables),
        "failed": sum(one["failed"] for one in mine),
        "of_runs": [runs[name] for name in OUTCOMES],
        "of_tables": [of_tables[name] for name in OUTCOMES],
        "wins": runs["better"] / len(mine),
        "harm": sum(one["harmed"] for one in mine) / len(mine),
        "harmed_tables": harmed,
        "harm_bound": 1.0 if harmed == len(tables) else float(beta.ppf(_CONFIDENCE, harmed + 1, len(tables) - harmed)),
        "difference": float(np.mean([one["difference"] for one in mine])),
    }


def _of_table(runs: Sequence[Json]) -> str:
    """The outcome of most runs of a table."""
    counts = Counter(run["outcome"] for run in runs)
    return next((name for name in ("better", "worse") if 2 * counts[name] > len(runs)), "same")


def dominated(standings: Sequence[Json], method: str) -> list[str]:
    """Methods with more wins and less harm than this one, or as much of one and better in the other."""
    own = next(one for one in standings if one["method"] == method)
    as_good = [one for one in standings if one["wins"] >= own["wins"] and one["harm"] <= own["harm"]]
    return [one["method"] for one in as_good if (one["wins"], one["harm"]) != (own["wins"], own["harm"])]


def table_of(standings: Sequence[Json]) -> str:
    """Markdown, those that win most first."""
    lines = [
        "| method | runs better/same/worse than a temperature | tables | harmed runs | harmed tables (bound) | failed "
        "| mean ΔNLL |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in sorted(standings, key=lambda one: (-one["wins"], one["harm"])):
        counts = ["/".join(map(str, one[name])) for name in ("of_runs", "of_tables")]
        harm = f"{one['harm']:.1%} | {one['harmed_tables']} of {one['tables']} (< {one['harm_bound']:.0%})"
        lines.append(
            f"| {one['method']} | {' | '.join(counts)} | {harm} | {one['failed']} | {one['difference']:+.4f} |"
        )
    return "\n".join(lines)


def picture(standings: Sequence[Json], file: Path) -> None:
    """Win rate (up) over harm (right), a dot a method, and beside them the names of their letters."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    ordered = sorted(standings, key=lambda one: (-one["wins"], one["harm"]))
    letters: dict[tuple[float, float], list[str]] = {}
    for letter, one in zip(ascii_uppercase, ordered, strict=False):
        at = 100 * one["harm"], 100 * one["wins"]
        letters.setdefault(at, []).append(letter)
        ours = one["method"].startswith("FedLAS")
        name = f"{letter}  {one['method']}: {at[1]:.0f} %, {at[0]:.1f} %"
        axes.scatter(*at, color="tab:red" if ours else "tab:gray", label=name, zorder=3)
    for at, mine in letters.items():
        axes.annotate(" ".join(mine), at, xytext=(6, 4), textcoords="offset points")
    axes.set_xlabel("runs harmed: NLL more than 1 % above the upload's (%)")
    axes.set_ylabel("runs better than a temperature, beyond chance (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize="small", title="better, harmed")
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    """Answer what is missing, two runs at once, then score all and print the table."""
    options = _options()
    chosen = list(selected(options.settings, options.seeds))
    with ProcessPoolExecutor(options.at_once) as pool:
        list(pool.map(partial(answer, own=options.method, fine_tuned=options.fine_tuned), chosen))
    methods = [*post_hoc_methods(options.method), OURS_ALONE, OURS, TUNED]
    results = [one for run in chosen for one in scored(run, methods)]
    standings = [standing(results, method) for method in dict.fromkeys(one["method"] for one in results)]
    results_file("arena").write_text(json.dumps({"standings": standings, "results": results}, indent=1) + "\n")
    print(table_of(standings))
    for ours in (OURS, OURS_ALONE, TUNED):
        if any(one["method"] == ours for one in standings):
            others = dominated(standings, ours)
            print(f"{ours}: no method wins more and harms less" if not others else f"{ours} is behind {others}")
    if options.picture:
        picture(standings, options.picture)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arena = [name for name, setting in SETTINGS.items() if setting.section == "arena"]
    parser.add_argument("--settings", type=settings_named, default=arena, help="names or sections with commas")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--fine-tuned", action="store_true", help="default jobs of FedLAS, too: a minute each")
    parser.add_argument("--method", action="append", default=[], help="one of yours, MODULE:FUNCTION")
    parser.add_argument("--at-once", type=int, default=2, help="runs at once")
    parser.add_argument("--picture", type=Path, help="where to leave the picture, .svg or .png")
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
