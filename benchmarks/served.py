"""Served files beside their uploads: time of an answer, nodes, and NLL on hidden rows, of three jobs per network.

    python -m benchmarks.served --label before           # bases, jobs of three minutes at most, times: 15 minutes
    python -m benchmarks.served --label before --time-only
    python -m benchmarks.served --label after --against before    # changed code, side by side with what lies there

The networks are small, so that what a job adds to a graph is not hidden by the network's own time. Each is calibrated
without training, at the cost of one network, and with default options. Plain ONNX Runtime answers one row and 64 on one
thread; upload and served files take turns in one process, and a ratio is the median over rounds of the served median
over the upload's. It is measured with all outputs and with `probabilities` alone.

What a job leaves lies under `served/LABEL/SETTING/JOB` of the cache folder and is replaced when the label is run again;
bases are shared by all labels.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from scipy.special import softmax  # noqa: E402

from benchmarks.bases import make_base  # noqa: E402
from benchmarks.calibration import selected, settings_named  # noqa: E402
from benchmarks.calibration_scores import row_scores  # noqa: E402
from benchmarks.data.common import Array, cache_folder, results_file  # noqa: E402
from benchmarks.jobs import Json, Run, told_of  # noqa: E402
from benchmarks.peers import Floats, fitted_temperature  # noqa: E402
from benchmarks.settings import SETTINGS  # noqa: E402
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
    *("yeast1", "ring", "page-blocks0", "spambase-keel"),
    *("contraceptive", "splice-keel"),
    *("satimage-keel", "segment", "marketing-keel", "digits", "mnist"),
    *("texture", "letter-keel"),
    *("fashion", "mnist-gru"),
)
ROWS = (1, 64)
#: Outputs that are asked for; an upload has one.
OUTPUTS: dict[str, list[str] | None] = {"all": None, "probabilities": ["probabilities"]}
RATIOS = tuple(f"{number}, {kind}" for number in ROWS for kind in OUTPUTS)
ROUNDS = 31
_ROUND_S = 0.01  # of one file
_CALLS = (5, 400)  # per round, at least and at most
Answer = Callable[[], object]


def folder_of(label: str, run: Run, job: str) -> Path:
    return cache_folder() / "served" / label / run[0] / job.replace(" ", "-")


def run_job(run: Run, job: str, folder: Path) -> None:
    """Leave `served.onnx`, `report.json`, `hidden.npy` (N, K) and `run.json`, or `failed.json`."""
    from benchmarks.worker_jobs import probabilities, worker_job

    name, seed, base = run
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    request = JOBS[job] | {"budget": {"minutes": MINUTES}, "seed": seed}
    files, known = (base / "model.onnx", base / "dataset.npz"), SETTINGS[name].seen_by_model
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as scratch:
        try:
            done = worker_job(*files, request, Path(scratch), seen_by_model=known)
        except FedLASError as error:
            (folder / "failed.json").write_text(json.dumps({"error": str(error)}))
            print(f"{name}, {job} failed: {error}", flush=True)
            return
        shutil.copy(done.file, folder / "served.onnx")
    np.save(folder / "hidden.npy", probabilities(folder / "served.onnx", dict(np.load(base / "hidden_inputs.npz"))))
    (folder / "report.json").write_text(json.dumps(done.report, indent=1, ensure_ascii=False) + "\n")
    (folder / "run.json").write_text(json.dumps(done.seconds | told_of(done.report)) + "\n")
    print(f"{name}, {job}: {done.seconds['job_seconds']:.0f} s", flush=True)


def timed(upload: Path, served: Mapping[str, Path], rows: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Ratios to the upload's time by file, as `{file: {"1, all": …}}`, and the microseconds of `upload`."""
    sessions = {name: _session(file) for name, file in {"upload": upload, **served}.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in sessions}
    for number in ROWS:
        inputs = {name: array[:number] for name, array in rows.items()}
        answers = {("upload", "all"): partial(sessions["upload"].run, None, inputs)}
        for name in served:
            answers |= {(name, kind): partial(sessions[name].run, asked, inputs) for kind, asked in OUTPUTS.items()}
        for (name, kind), taken in _in_turn(answers, base=("upload", "all")).items():
            found[name][f"{number}, {kind}"] = taken
    return found


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _in_turn(answers: Mapping[tuple[str, str], Answer], base: tuple[str, str]) -> dict[tuple[str, str], float]:
    """Medians over rounds: microseconds of the base, and ratios to it in the same round of all others."""
    calls = {which: _number_of_calls(answer) for which, answer in answers.items()}
    rounds = [{which: _median_s(answer, calls[which]) for which, answer in answers.items()} for _ in range(ROUNDS)]
    ratios = {which: median(one[which] / one[base] for one in rounds) for which in answers}
    return ratios | {base: 1e6 * median(one[base] for one in rounds)}


def _number_of_calls(answer: Answer) -> int:
    low, high = _CALLS
    _median_s(answer, low)  # the first calls allocate
    return max(low, min(high, int(_ROUND_S / _median_s(answer, low))))


def _median_s(answer: Answer, calls: int) -> float:
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        answer()
        taken.append(time.perf_counter() - began)
    return median(taken)


def number_of_nodes(file: Path) -> int:
    """Nodes of a file's graph, those of its branches and loops included."""

    def count(graph: Any) -> int:
        inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        return len(graph.node) + sum(map(count, inner))

    return count(onnx.load(file).graph)


def measured(run: Run, labels: Sequence[str]) -> Iterator[Json]:
    """What there is to say of each job of a network, by label; the first label is compared with the second."""
    base, jobs = run[2], {(label, job): folder_of(label, run, job) for job in JOBS for label in labels}
    there = {key: folder for key, folder in jobs.items() if (folder / "run.json").exists()}
    rows = dict(np.load(base / "hidden_inputs.npz"))
    files = {" ".join(key): folder / "served.onnx" for key, folder in there.items()}
    times = timed(base / "model.onnx", files, rows)
    logits, targets = np.load(base / "logits.npz"), np.load(base / "hidden.npz")["targets"]
    temperature = softmax(logits["hidden"] / fitted_temperature(logits["calibration"], logits["targets"]), axis=1)
    upload = {
        "classes": logits["hidden"].shape[1],
        "upload_us": [times["upload"][f"{number}, all"] for number in ROWS],
        "upload_nodes": number_of_nodes(base / "model.onnx"),
        "upload_nll": float(row_scores(logits["uploaded"], targets, "nll").mean()),
        "temperature_nll": float(row_scores(temperature, targets, "nll").mean()),
    }
    for job in JOBS:
        found = {label: there[label, job] for label in labels if (label, job) in there}
        nll = {label: row_scores(np.load(folder / "hidden.npy"), targets, "nll") for label, folder in found.items()}
        by_label = {
            label: of_job(folder) | {"ratios": times[f"{label} {job}"], "nll": float(nll[label].mean())}
            for label, folder in found.items()
        }
        paired = _paired(*nll.values()) if len(found) == 2 else None
        yield {"setting": run[0], "job": job, **upload, "by_label": by_label, "difference": paired}


def of_job(folder: Path) -> Json:
    """The figures of a job by its report and its file."""
    told, report = (json.loads((folder / f"{name}.json").read_text()) for name in ("run", "report"))
    winner = report["recipe"]["winner"] or {}
    return {
        "served": told["served"],
        "networks": len(winner.get("hyperparameters", {}).get("members", ())) or 1,
        "cost_factor": report["recipe"]["cost_factor"],
        "nodes": number_of_nodes(folder / "served.onnx"),
        "budget_used": told["job_seconds"] / (60 * MINUTES),
        "skipped": [one["name"] for one in report["candidates"] if one["status"] == "skipped"],
    }


def _paired(after: Floats, before: Floats) -> list[float]:
    """Mean and standard error of the first minus the second."""
    differences = after - before
    return [float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))]


def table_of(results: Sequence[Json], labels: Sequence[str]) -> str:
    """Markdown, a line per network and job; of two labels `before → after`, or one value where they agree."""
    cell = partial(_cell, list(reversed(labels)))
    columns: dict[str, Callable[[Json], str]] = {
        "network (classes)": lambda one: f"{one['setting']} ({one['classes']})",
        "job": lambda one: one["job"],
        "serves": cell(lambda job: job["served"]),
        "networks": cell(lambda job: str(job["networks"])),
        "cost factor": cell(lambda job: f"{job['cost_factor']:.2f}"),
        "nodes: upload": lambda one: str(one["upload_nodes"]),
        "served": cell(lambda job: str(job["nodes"])),
        "upload, µs": lambda one: ", ".join(f"{taken:.0f}" for taken in one["upload_us"]),
        **{name: cell(partial(_ratio, name)) for name in RATIOS},
        "NLL: upload": lambda one: f"{one['upload_nll']:.4f}",
        "temperature": lambda one: f"{one['temperature_nll']:.4f}",
        "served ": cell(lambda job: f"{job['nll']:.4f}"),
        "after − before": lambda one: "{:+.4f} ± {:.4f}".format(*one["difference"]) if one["difference"] else "",
        "budget used": cell(lambda job: f"{job['budget_used']:.0%}"),
        "skipped": cell(lambda job: "; ".join(job["skipped"])),
    }
    lines = [columns, ["---"] * len(columns), *([of(one) for of in columns.values()] for one in results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(name: str, job: Json) -> str:
    return f"{job['ratios'][name]:.2f}"


def _cell(labels: Sequence[str], words: Callable[[Json], str]) -> Callable[[Json], str]:
    def cell(one: Json) -> str:
        jobs = [one["by_label"].get(label) for label in labels]
        return " → ".join(dict.fromkeys("failed" if job is None else words(job) for job in jobs))

    return cell


def summary(results: Sequence[Json], labels: Sequence[str]) -> str:
    """One line: by job the median and the worst of each ratio, and of NLL minus that of a temperature."""
    parts = []
    for job in JOBS:
        mine = [one for one in results if one["job"] == job]
        parts.append(f"{job}: {' → '.join(_middle_and_worst(mine, label) for label in reversed(labels))}")
    return f"Median (worst) of {len(results) // len(JOBS)} networks. {'; '.join(parts)}"


def _middle_and_worst(results: Sequence[Json], label: str) -> str:
    done = [one | one["by_label"][label] for one in results if label in one["by_label"]]
    if not done:
        return "none"
    figures = {name: [one["ratios"][name] for one in done] for name in RATIOS}
    said = [f"{name} {median(each):.2f} ({max(each):.2f})" for name, each in figures.items()]
    gains = [one["nll"] - one["temperature_nll"] for one in done]
    return ", ".join([*said, f"NLL − temperature {median(gains):+.4f} ({max(gains):+.4f})"])


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
    file = results_file("-against-".join([f"served-{options.label}", *labels[1:]]))
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
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
