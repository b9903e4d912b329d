"""Served files beside their uploads: time of an answer, nodes, and NLL on hidden rows, of three jobs per network.

    python -m benchmarks.served --label before           # bases, jobs of three minutes at most, times: 15 minutes
    python -m benchmarks.served --label before --time-only
    python -m benchmarks.served --label after --against before    # changed code, side by side with what lies there

The networks are small, so that their own time hides nothing that a job adds. Plain ONNX Runtime answers one row and 64
on one thread, with all outputs and with `probabilities` alone. Upload and served files take turns in one process: a
ratio is the median over rounds of the served median over the upload's.

What a job leaves lies under `served/LABEL/SETTING/JOB` of the cache folder, and is replaced when it runs again under
that label; bases are shared by all labels.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeAlias

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from scipy.special import softmax  # noqa: E402

from benchmarks.bases import make_base, session  # noqa: E402
from benchmarks.calibration import selected, settings_named  # noqa: E402
from benchmarks.calibration_scores import row_scores  # noqa: E402
from benchmarks.data.common import Array, cache_folder, results_file  # noqa: E402
from benchmarks.jobs import Json, Run, probabilities, told_of, worker_job  # noqa: E402
from benchmarks.peers import fitted_temperature  # noqa: E402
from fedlas.errors import FedLASError  # noqa: E402

MINUTES = 3.0
#: Options of the three jobs, beside budget and seed.
JOBS: dict[str, Json] = {
    "post_hoc": {"method": "post_hoc"},
    "cost 1": {"method": "auto", "max_cost_factor": 1},
    "default": {"method": "auto"},
}
#: Two classes, three, four to ten, more; then images and sequences.
NETWORKS = (
    *("yeast1", "ring", "page-blocks0", "spambase-keel", "contraceptive", "splice-keel", "satimage-keel", "segment"),
    *("marketing-keel", "digits", "mnist", "texture", "letter-keel", "fashion", "mnist-gru"),
)
ROWS = {"1 row": 1, "64 rows": 64}
#: Outputs that are asked for; an upload has one.
OUTPUTS: dict[str, list[str] | None] = {"all": None, "probabilities": ["probabilities"]}
RATIOS = tuple(f"{rows}, {kind}" for rows in ROWS for kind in OUTPUTS)
#: A column's head, its key in the results, and its format.
COLUMNS: dict[str, tuple[str, str]] = {
    "network": ("setting", "{}"),
    "classes": ("classes", "{}"),
    "job": ("job", "{}"),
    "serves": ("served", "{}"),
    "networks": ("networks", "{}"),
    "cost factor": ("cost_factor", "{:.2f}"),
    "upload: nodes": ("upload_nodes", "{}"),
    "served: nodes": ("nodes", "{}"),
    "upload: µs": ("upload_us", "{0[0]:.0f}; {0[1]:.0f}"),
    **{name: (name, "{:.2f}") for name in RATIOS},
    "upload: NLL": ("upload_nll", "{:.4f}"),
    "temperature": ("temperature_nll", "{:.4f}"),
    "served: NLL": ("nll", "{:.4f}"),
    "after − before": ("difference", "{0[0]:+.4f} ± {0[1]:.4f}"),
    "budget used": ("budget_used", "{:.0%}"),
    "skipped": ("skipped", "{}"),
}
ROUNDS = 31
_ROUND_S = 0.01  # of one file
_CALLS = (5, 400)  # per round, at least and at most
Answer: TypeAlias = Callable[[], object]
Key: TypeAlias = tuple[str, str]  # a label and a job
UPLOAD: Key = ("", "upload")


def folder_of(label: str, run: Run, job: str) -> Path:
    return cache_folder() / "served" / label / run[0] / job.replace(" ", "-")


def run_job(run: Run, job: str, folder: Path) -> None:
    """Leave `served.onnx`, `report.json`, `hidden.npy` (N, K) and `run.json`; nothing if it fails."""
    name, seed, base = run
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    request = JOBS[job] | {"budget": {"minutes": MINUTES}, "seed": seed}
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
        try:
            done = worker_job(base / "model.onnx", base / "dataset.npz", request, Path(scratch))
        except FedLASError as error:
            print(f"{name}, {job} failed: {error}", flush=True)
            return
        shutil.copy(done.file, folder / "served.onnx")
    np.save(folder / "hidden.npy", probabilities(folder / "served.onnx", dict(np.load(base / "hidden_inputs.npz"))))
    (folder / "report.json").write_text(json.dumps(done.report, indent=1, ensure_ascii=False) + "\n")
    (folder / "run.json").write_text(
        json.dumps(done.seconds | told_of(done.report) | {"cost_factor": done.cost_factor}) + "\n"
    )
    print(f"{name}, {job}: {done.seconds['job_seconds']:.0f} s", flush=True)


def timed(upload: Path, served: Mapping[Key, Path], rows: Mapping[str, Array]) -> dict[Key, dict[str, float]]:
    """Ratios to the upload's time by file, as `{file: {"1 row, all": …}}`, and the microseconds of `UPLOAD`."""
    sessions = {key: session(file) for key, file in {UPLOAD: upload, **served}.items()}
    found: dict[Key, dict[str, float]] = {key: {} for key in sessions}
    for shown, number in ROWS.items():
        inputs = {name: array[:number] for name, array in rows.items()}
        answers = {(UPLOAD, "all"): partial(sessions[UPLOAD].run, None, inputs)}
        for key in served:
            answers |= {(key, kind): partial(sessions[key].run, asked, inputs) for kind, asked in OUTPUTS.items()}
        for (key, kind), taken in _in_turn(answers).items():
            found[key][f"{shown}, {kind}"] = taken
    return found


def _in_turn(answers: Mapping[tuple[Key, str], Answer]) -> dict[tuple[Key, str], float]:
    """Medians over rounds: microseconds of the first, and ratios of the others to it in the same round."""
    calls, first = {which: _number_of_calls(answer) for which, answer in answers.items()}, next(iter(answers))
    rounds = [{which: _median_s(answer, calls[which]) for which, answer in answers.items()} for _ in range(ROUNDS)]
    ratios = {which: median(one[which] / one[first] for one in rounds) for which in answers}
    return ratios | {first: 1e6 * median(one[first] for one in rounds)}


def _number_of_calls(answer: Answer) -> int:
    _median_s(answer, _CALLS[0])  # the first calls allocate
    return int(np.clip(_ROUND_S / _median_s(answer, _CALLS[0]), *_CALLS))


def _median_s(answer: Answer, calls: int) -> float:
    return median(timeit.repeat(answer, number=1, repeat=calls))


def number_of_nodes(file: Path) -> int:
    return len(onnx.load(file).graph.node)


def measured(run: Run, labels: Sequence[str]) -> Iterator[Json]:
    """The figures of each job of a network: of its upload, by label, and of the first label minus the second."""
    base, jobs = run[2], {(label, job): folder_of(label, run, job) for job in JOBS for label in labels}
    there = {key: folder for key, folder in jobs.items() if (folder / "run.json").exists()}
    files = {key: folder / "served.onnx" for key, folder in there.items()}
    times = timed(base / "model.onnx", files, dict(np.load(base / "hidden_inputs.npz")))
    logits, targets = np.load(base / "logits.npz"), np.load(base / "hidden.npz")["targets"]
    temperature = softmax(logits["hidden"] / fitted_temperature(logits["calibration"], logits["targets"]), axis=1)
    upload = {
        "setting": run[0],
        "classes": logits["hidden"].shape[1],
        "upload_us": [times[UPLOAD][f"{rows}, all"] for rows in ROWS],
        "upload_nodes": number_of_nodes(base / "model.onnx"),
        "upload_nll": float(row_scores(logits["uploaded"], targets, "nll").mean()),
        "temperature_nll": float(row_scores(temperature, targets, "nll").mean()),
    }
    for job in JOBS:
        found = {label: there[label, job] for label in labels if (label, job) in there}
        nll = {label: row_scores(np.load(folder / "hidden.npy"), targets, "nll") for label, folder in found.items()}
        figures = {name: of_job(each) | times[name, job] | {"nll": nll[name].mean()} for name, each in found.items()}
        paired = nll[labels[0]] - nll[labels[1]] if len(found) == 2 else None
        error = None if paired is None else [paired.mean(), paired.std(ddof=1) / len(paired) ** 0.5]
        yield {**upload, "job": job, "by_label": figures, "difference": error}


def of_job(folder: Path) -> Json:
    """The figures of a job by its report and its file."""
    told, report = (json.loads((folder / f"{name}.json").read_text()) for name in ("run", "report"))
    winner = report["recipe"]["winner"] or {"hyperparameters": {}}
    return {
        "served": told["served"],
        "networks": len(winner["hyperparameters"].get("members", ())) or 1,
        "cost_factor": told["cost_factor"],
        "nodes": number_of_nodes(folder / "served.onnx"),
        "budget_used": told["job_seconds"] / (60 * MINUTES),
        "skipped": "; ".join(one["name"] for one in report["candidates"] if one["status"] == "skipped"),
    }


def table_of(results: Sequence[Json], labels: Sequence[str]) -> str:
    """Markdown, a line per network and job; of two labels `before → after`, or one value where they agree."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[_cell(one, labels[::-1], *column) for column in COLUMNS.values()] for one in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(one: Json, labels: Sequence[str], key: str, form: str) -> str:
    found = [one] if key in one else [one["by_label"].get(label, {key: None}) for label in labels]
    return " → ".join(dict.fromkeys("-" if each[key] is None else form.format(each[key]) for each in found))


def summary(results: Sequence[Json], labels: Sequence[str]) -> str:
    """One line: by job the median and the worst of each ratio, and of NLL minus that of a temperature."""
    by_job = {job: [one for one in results if one["job"] == job] for job in JOBS}
    parts = [
        f"{job}: {' → '.join(_middle_and_worst(of, label) for label in labels[::-1])}" for job, of in by_job.items()
    ]
    return f"Median (worst) of {len(results) // len(JOBS)} networks. {'; '.join(parts)}"


def _middle_and_worst(results: Sequence[Json], label: str) -> str:
    done = [one | one["by_label"][label] for one in results if label in one["by_label"]]
    figures = {name: [one[name] for one in done] for name in RATIOS}
    figures["NLL − temperature"] = [one["nll"] - one["temperature_nll"] for one in done]
    return " | ".join(f"{name}: {median(each):.3g} ({max(each):.3g})" for name, each in figures.items() if each)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    runs = list(selected(options.settings, [0]))
    for run in () if options.time_only else runs:
        if not (run[2] / "model.onnx").exists():
            make_base(*run)
        for job in JOBS:
            run_job(run, job, folder_of(options.label, run, job))
    labels = [options.label, options.against] if options.against else [options.label]
    results = [one for run in runs if (run[2] / "model.onnx").exists() for one in measured(run, labels)]
    results_file("-against-".join([f"served-{options.label}", *labels[1:]])).write_text(json.dumps(results, indent=1))
    print(table_of(results, labels), "", summary(results, labels), sep="\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="now", help="name of what the jobs leave")
    parser.add_argument("--time-only", action="store_true", help="run no job, and print what lies there")
    parser.add_argument("--against", metavar="LABEL", help="an earlier label, printed side by side")
    parser.add_argument("--settings", type=settings_named, default=NETWORKS, help="names or sections with commas")
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
