"""Predictions over a stored dataset of millions of rows: memory of the worker's child, rows per second, time per page.

    python -m benchmarks.batch_predictions --rows 1000000 10000000 --memory-megabytes 1024 --folder /tmp

The real child (`worker.inside.child` in its sandbox) works in a control group (version 1) whose limit counts
everything: the page cache, and its supervisor, too. A group takes for the page cache whatever is free, so
its own peak says little; that the child ends well under the limit, and what is resident of it, is what counts. Pages
are read over HTTP.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.control_groups import control_group

Json = dict[str, Any]

FEATURES, CLASSES, HIDDEN = 64, 10, 64
OPTIONS: Json = {"top_k": 3, "abstain_below": 0.8, "coverage": 0.9}
_PIECE = 1 << 16


def model(folder: Path) -> Json:
    """A small network and what the worker keeps of it, with promises, as a job leaves it."""
    import torch
    from torch import nn

    from fedlas.calibrators import TemperatureScaling, softmax
    from fedlas.export.graph import export_onnx
    from fedlas.guarantees import Guarantees
    from fedlas.guarantees.typicality import Familiarity
    from fedlas.importers import load_onnx
    from tests.helpers.uploads import to_onnx
    from worker.documents import ModelOptions
    from worker.inside.inspection import model_profile

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)).eval()
    rows = torch.randn(2000, FEATURES)
    upload = folder / "upload.onnx"
    upload.write_bytes(to_onnx(network, (rows[:2],)))
    classifier = load_onnx(upload)
    with torch.no_grad():
        logits, features = (part.numpy() for part in classifier(rows))
    calibrator = TemperatureScaling(0.05)
    probs = softmax(calibrator(logits))
    targets = (probs.cumsum(1) > np.random.default_rng(0).random((len(rows), 1))).argmax(1)
    names = [f"class {k}" for k in range(CLASSES)]
    guarantees = Guarantees.fit(probs, targets, class_names=names)
    familiarity = Familiarity.fit(features, targets)
    export_onnx(
        classifier, folder / "served.onnx", calibrator=calibrator, class_names=names, guarantees=guarantees,
        familiarity=familiarity,
    )  # fmt: skip
    profile = model_profile(classifier, names, ModelOptions(class_names=names))
    promises = {"guarantees": guarantees.as_dict(), "familiarity": {"score": familiarity.score}}
    return {"file": str(folder / "served.onnx"), "profile": {**profile.stored(), **promises}}


def write(path: Path, rows: int, *, labelled: bool) -> None:
    """The prepared copy of a dataset, its splits drawn where it has any, written through a scratch file."""
    from fedlas.data import Dataset, save_dataset
    from fedlas.data.splits import draw_splits

    rng = np.random.default_rng(0)
    scratch = path.with_suffix(".npy")
    shape = (rows, FEATURES)
    with scratch.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for start in range(0, rows, _PIECE):
            file.write(rng.standard_normal((min(_PIECE, rows - start), FEATURES), dtype=np.float32).data)
    mapped = np.load(scratch, mmap_mode="r")
    targets = rng.integers(0, CLASSES, rows if labelled else 0)
    names = [str(k) for k in range(CLASSES if labelled else 0)]
    splits = draw_splits(targets) if labelled else np.empty(0, np.int8)
    save_dataset(Dataset({"x": mapped}, targets, names, True, splits, labelled=labelled), path)
    scratch.unlink()


def supervised(request: Path) -> Json:
    """Run the child as the worker does and watch what is resident of it; the answer of a process of its own."""
    from tests.helpers.processes import children_of
    from worker.documents import BatchOrder
    from worker.sandbox.process import run
    from worker.sandbox.protocol import ChildRequest, Limits

    given = json.loads(request.read_text())
    folder = request.with_name("child")
    folder.mkdir()
    peaks = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0)
    done, fractions = threading.Event(), []

    def watch() -> None:
        while not done.wait(0.01):
            for pid in children_of(os.getpid()):
                with suppress(OSError):
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                        name, _, value = line.partition(":")
                        if name in peaks:
                            peaks[name] = max(peaks[name], int(value.split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    outcome = run(
        ChildRequest(
            order=BatchOrder.model_validate(given["order"]), files=given["files"], limits=Limits(seconds=24 * 3600)
        ),
        folder=folder, on_tick=lambda: None,
        on_event=lambda event: fractions.append((time.perf_counter() - began, event["progress"]["fraction"])),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    if outcome.result is None:
        return {"failed": outcome.died if outcome.error is None else outcome.error.model_dump(), "log": outcome.log}
    (first, reached), (last, end) = fractions[0], fractions[-1]
    steady = given["rows"] * (end - reached) / (last - first) if last > first else None
    return {
        "seconds": seconds,
        "cpu_seconds": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
        "rows_per_second": given["rows"] / seconds,
        "rows_per_second_between_first_and_last_progress": steady,
        "peak_resident_mb": peaks["VmHWM"] / 1024,
        "peak_anonymous_mb": peaks["RssAnon"] / 1024,
        "peak_mapped_files_mb": peaks["RssFile"] / 1024,
        "results_mb": (folder / "results.parquet").stat().st_size / 2**20,
    }


def in_group(request: Path, megabytes: float) -> Json:
    """Run `supervised` in a control group, with a page cache that holds nothing of the files."""
    os.sync()
    with suppress(OSError):  # needs root; pages that others have read are charged to no limit here
        Path("/proc/sys/vm/drop_caches").write_text("1")
    command = [sys.executable, "-m", "benchmarks.batch_predictions", "--request", str(request)]
    with control_group(megabytes * 2**20) as group:
        child = subprocess.Popen(
            ["/bin/sh", "-c", 'read go; exec "$@"', "sh", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if group is not None:
            (group / "cgroup.procs").write_text(str(child.pid))
        answer, _ = child.communicate("go\n")
        result: Json = json.loads(answer.splitlines()[-1])
        if group is not None:
            result["group_limit_mb"] = megabytes
            result["group_peak_with_page_cache_mb"] = _number(group / "memory.max_usage_in_bytes") / 2**20
            result["group_reclaims"] = _number(group / "memory.failcnt")
    return result


def _number(file: Path) -> int:
    return int(file.read_text())


def pages(results: Path, rows: int) -> Json:
    """Milliseconds per page over HTTP, anywhere in the file and one after another; and the whole file."""
    from benchmarks.api_process import running_api
    from service.registry import tables
    from service.registry.tables import new_id, now

    with running_api("sqlite") as api:
        with api.registry.artifacts.stage_file(results) as staged, api.registry.write() as unit:
            row = tables.Batch(
                id=new_id("bat"), status="succeeded", created_at=now(), model_id="mdl_x", dataset_id="ds_x",
                options={}, progress={}, num_rows=rows, results_sha256=staged.keep(),
            )  # fmt: skip
            unit.batches.add(row)
        url = f"http://127.0.0.1:{api.port}/v1/predictions/{row.id}/results"

        def page(after: int, limit: int) -> float:
            began = time.perf_counter()
            with urllib.request.urlopen(f"{url}?after={after}&limit={limit}") as answer:
                found = json.load(answer)
            assert found["data"][0]["row"] == after + 1, found["data"][0]
            assert len(found["data"]) == limit
            return 1000 * (time.perf_counter() - began)

        page(-1, 1)
        rng = random.Random(0)
        anywhere = {limit: [page(rng.randrange(rows - limit), limit) for _ in range(50)] for limit in (1, 100, 1000)}
        following = [page(start - 1, 1000) for start in itertools.islice(range(0, rows - 1000, 1000), 100)]
        began = time.perf_counter()
        request = urllib.request.Request(url, headers={"Accept": "application/vnd.apache.parquet"})
        size = 0
        with urllib.request.urlopen(request) as answer:
            while chunk := answer.read(1 << 20):
                size += len(chunk)
        return {
            "page_ms": {limit: _spread(times) for limit, times in anywhere.items()},
            "next_page_of_1000_ms": _spread(following),
            "whole_file_mb_per_second": size / 2**20 / (time.perf_counter() - began),
            "api_peak_resident_mb": api.memory_peak_mb(),
        }


def _spread(times: list[float]) -> Json:
    return {"median": round(statistics.median(times), 2), "worst": round(max(times), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--memory-megabytes", type=float, nargs="+", default=[1024, 512])
    parser.add_argument("--options", type=json.loads, default=OPTIONS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, help="also write the results here, as JSON")
    parser.add_argument("--unlabelled", action="store_true", help="rows that are only to be predicted")
    parser.add_argument("--errors", choices=("fail", "column"), default="fail")
    parser.add_argument("--no-pages", action="store_true")
    parser.add_argument("--request", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.request:
        print(json.dumps(supervised(args.request)))
        return
    found = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        served = model(folder)
        for rows in args.rows:
            prepared = folder / "prepared.npz"
            write(prepared, rows, labelled=not args.unlabelled)
            for megabytes in args.memory_megabytes:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    request = Path(place) / "order.json"
                    order = {"profile": served["profile"], "options": args.options}
                    order["errors"] = args.errors
                    files = {"model": served["file"], "dataset": str(prepared)}
                    request.write_text(json.dumps({"order": order, "files": files, "rows": rows}))
                    size = prepared.stat().st_size / 2**20
                    result = {"rows": rows, "prepared_mb": size, **in_group(request, megabytes)}
                    if "failed" not in result and not args.no_pages:
                        result |= pages(Path(place) / "child" / "results.parquet", rows)
                print(json.dumps(result, indent=1), flush=True)
                found.append(result)
            prepared.unlink()
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
