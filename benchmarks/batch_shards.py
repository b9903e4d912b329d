"""Predictions over 10 million stored rows: in one piece, in shards on one worker, and in shards on two.

    python -m benchmarks.batch_shards --rows 10000000 --rounds 2

Rows of 64 floats and a small network with promises, as in `benchmarks.batch_predictions`; a worker is a plain Celery
process for predictions on one thread of arithmetic, though its child reads and writes in threads beside it: `--pin`
binds every worker to a core of its own. The three ways are run in turn. Seconds are the batch's own, from its order to
its end; its whole results are read as one Parquet file, and must be the same rows in every way.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from benchmarks.api_process import BACKENDS, Api, running_api
from benchmarks.batch_predictions import FEATURES, OPTIONS, model, write
from benchmarks.celery_workers import celery_worker
from service.registry import tables
from service.registry.documents import DatasetProfile, DatasetRoles, TensorSpec
from service.registry.tables import new_id, now
from tests.helpers.processes import until
from tests.helpers.service import FINAL

Json = dict[str, Any]

#: Seconds of a shard that no batch reaches: it is one piece.
NEVER = "1000000000"
_START_S = 8.0


@dataclass(frozen=True)
class Way:
    """How a batch is run."""

    name: str
    workers: int
    environment: Mapping[str, str]


WAYS = (
    Way("1 worker, in one piece", 1, {"FEDLAS_SHARD_SECONDS": NEVER}),
    Way("1 worker, in shards", 1, {}),
    Way("2 workers, in shards", 2, {}),
)


def stored(api: Api, folder: Path, rows: int) -> Json:
    """A request for predictions over records that are as inspection leaves them."""
    served = model(folder)
    prepared = folder / "prepared.npz"
    write(prepared, rows, labelled=False)
    spec = TensorSpec(name="x", shape=["batch", FEATURES], dtype="float32")
    profile = DatasetProfile(format="npz", num_samples=rows, labelled=False, inputs=[spec], roles=DatasetRoles())
    with (
        api.registry.artifacts.stage_file(Path(served["file"])) as network,
        api.registry.artifacts.stage_file(prepared) as table,
        api.registry.write() as unit,
    ):
        common: Json = {"status": "ready", "created_at": now(), "name": "x", "options": {}, "bytes": 1}
        digest = network.keep()
        row = tables.Model(
            id=new_id("mdl"), origin="upload", sha256=digest, served_sha256=digest, profile=served["profile"], **common
        )  # fmt: skip
        digest = table.keep()
        data = tables.Dataset(
            id=new_id("ds"), sha256=digest, prepared_sha256=digest, profile=profile.stored(), **common
        )  # fmt: skip
        unit.session.add_all([row, data])
        request = {"model": row.id, "dataset_id": data.id, **OPTIONS}
    prepared.unlink()
    return request


def run(way: Way, api: Api, request: Json, *, pin: bool) -> Json:
    """One batch: what it took, and the digest of its rows."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=60))
        workers = []
        for number in range(way.workers):
            environment = {**api.environment, **way.environment}
            worker = stack.enter_context(celery_worker(environment, ("predict",)))
            if pin:  # its threads and children inherit it
                os.sched_setaffinity(worker.process.pid, {cores[number % len(cores)]})
            workers.append(worker)
        time.sleep(_START_S)
        load, computed = os.getloadavg()[0], [worker.cpu_seconds() for worker in workers]
        batch_id = client.post("/v1/predictions", json=request).raise_for_status().json()["id"]
        at = f"/v1/predictions/{batch_id}"
        until(lambda: client.get(at).json()["status"] in FINAL, seconds=3600, what="the batch ends")
        batch = client.get(at).json()
        assert batch["status"] == "succeeded", batch
        cpu = [round(w.cpu_seconds() - c, 1) for w, c in zip(workers, computed, strict=True)]
        after = os.getloadavg()[0]
        headers = {"Accept": "application/vnd.apache.parquet"}
        content = client.get(f"{at}/results", headers=headers).raise_for_status().content
        client.delete(at).raise_for_status()
    seconds = _moment(batch["finished_at"]) - _moment(batch["created_at"])
    table = pq.read_table(io.BytesIO(content))
    assert len(table) == batch["num_rows"]
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(len(table) / seconds),
        "cpu_s_by_worker": cpu,
        "rows_sha256": _digest(content),
        "load_before_and_after": [round(load, 2), round(after, 2)],
    }


def _digest(parquet: bytes) -> str:
    """Of the rows, however they are grouped."""
    digest = hashlib.sha256()
    for batch in pq.ParquetFile(io.BytesIO(parquet)).iter_batches(1 << 15):
        digest.update(repr(batch.schema).encode())
        for column in batch.columns:
            for buffer in column.buffers():
                digest.update(b"" if buffer is None else buffer)
    return digest.hexdigest()


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def compared(rounds: Mapping[str, Sequence[Json]]) -> Json:
    """Ratios of medians, and whether all ways gave the same rows."""
    whole, alone, shared = (statistics.median(run["seconds"] for run in rounds[way.name]) for way in WAYS)
    digests = {run["rows_sha256"] for runs in rounds.values() for run in runs}
    return {
        "2_workers_against_1": round(alone / shared, 3),
        "2_workers_against_1_in_one_piece": round(whole / shared, 3),
        "shards_against_one_piece_on_1_worker": round(alone / whole, 3),
        "same_rows": len(digests) == 1,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--shard-seconds", help="`FEDLAS_SHARD_SECONDS` in shards; few rows want fewer")
    parser.add_argument("--pin", action="store_true", help="bind every worker to a core of its own")
    parser.add_argument("--backend", choices=BACKENDS, default="postgresql")
    options = parser.parse_args()
    given = {"FEDLAS_SHARD_SECONDS": options.shard_seconds} if options.shard_seconds else {}
    ways = [replace(way, environment={**given, **way.environment}) for way in WAYS]
    rounds: dict[str, list[Json]] = {way.name: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, running_api(options.backend) as api:
        request = stored(api, Path(folder), options.rows)
        for _ in range(options.rounds):
            for way in ways:
                rounds[way.name].append(run(way, api, request, pin=options.pin))
    print(json.dumps({"rows": options.rows, "runs": rounds, "compared": compared(rounds)}, indent=2))


if __name__ == "__main__":
    main()
