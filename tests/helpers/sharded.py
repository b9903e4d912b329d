"""Batches in shards over a real registry, with the child's function called in this process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlas.contract.records import RecordError
from fedlas.data import Dataset, save_dataset
from fedlas.errors import FedLASError
from service.registry import tables
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.settings import WorkerSettings
from service.registry.tables import new_id, now
from tests.helpers.documents import DATASET_PROFILE, MODEL_PROFILE
from tests.helpers.served import lookup
from worker.documents import BatchOrder, ChildEvent, Reply, Result, ShardOrder
from worker.inside.batch import PARTS, predict, predict_shard
from worker.outside.kinds import WorkKind, kind_of

#: A shard of some 50 rows, by the estimate for a model that was not measured.
SHARD_SECONDS = 1.4e-4
ROWS = 200
#: The model refuses rows of this token; of the others each has logits of its own.
BAD = 10


@dataclass(frozen=True)
class ShardedBatches:
    """Tables of tokens, ready to be predicted in shards of 50 rows."""

    registry: Registry
    settings: WorkerSettings

    @classmethod
    def over(cls, registry: Registry, **settings: Any) -> ShardedBatches:
        """With settings of a worker."""
        return cls(registry, WorkerSettings(**{"shard_seconds": SHARD_SECONDS, **settings}))

    def order(self, bad: tuple[int, ...] = (), *, rows: int = ROWS, **options: Any) -> str:
        """A queued batch over so many rows, of which those in `bad` are refused."""
        inputs = [{"name": "x", "dtype": "int64", "shape": ["N", 1]}]
        tokens = np.random.default_rng(0).integers(0, 3, (rows, 1))
        tokens[list(bad)] = BAD
        splits = np.random.default_rng(3).integers(-1, 4, rows).astype(np.int8)
        model = tables.Model(
            id=new_id("mdl"), name="m", bytes=1, sha256=self._kept(b"m"), origin="uploaded", status="ready",
            served_sha256=self._kept(lookup(np.eye(3, 2, dtype=np.float32))), options={}, created_at=now(),
            profile={**MODEL_PROFILE, "inputs": inputs, "class_names": ["a", "b"]},
        )  # fmt: skip
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            save_dataset(Dataset({"x": tokens}, np.arange(rows) % 2, ["a", "b"], True, splits), file.name)
            prepared = self._kept(Path(file.name).read_bytes())
        dataset = tables.Dataset(
            id=new_id("ds"), name="d", bytes=1, sha256=self._kept(b"d"), status="ready", options={}, created_at=now(),
            prepared_sha256=prepared, profile={**DATASET_PROFILE, "inputs": inputs, "num_samples": rows},
        )  # fmt: skip
        with self.registry.write() as unit:
            batch = tables.Batch(
                id=new_id("bat"), status="queued", created_at=now(), model_id=unit.models.add(model).id,
                dataset_id=unit.datasets.add(dataset).id, options=options, progress={},
            )  # fmt: skip
            unit.batches.add(batch)
            unit.work.open(batch.id)
        return batch.id

    def _kept(self, content: bytes) -> str:
        with self.registry.artifacts.stage() as staged:
            staged.write(content)
            return staged.keep()

    def claimed(self, record_id: str | None = None, *, lease: float = 60) -> WorkKind | None:
        """The work of this record, or whose turn it is."""
        with self.registry.write() as unit:
            if record_id is None:
                claim = unit.work.claim_next("predict", worker="w", lease_seconds=lease)
            else:
                claim = unit.work.claim(record_id, worker="w", lease_seconds=lease)
        if claim is None:
            return None
        assert isinstance(claim, Claim)
        return kind_of(claim)(self.registry, self.settings, claim)

    def taken(self, record_id: str | None = None, *, lease: float = 60) -> WorkKind:
        """A claimed piece of work, where there must be one."""
        work = self.claimed(record_id, lease=lease)
        assert work is not None
        return work

    def run(self, work: WorkKind) -> None:
        """Do it as a worker and its child would."""
        prepared = work.begin()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if prepared is not None:
                files = {name: Path(path) for name, path in prepared.files.items()}
                found: Result
                try:
                    match prepared.order:
                        case ShardOrder() as shard:
                            work.keep = lambda entry: self._keep(work, folder / PARTS / entry.file)
                            found = predict_shard(shard, files, folder, lambda event: told(work, event), Reply)
                        case BatchOrder() as batch:
                            found = predict(batch, files, folder, lambda event: told(work, event))
                except FedLASError as error:
                    work.failed(RecordError(code=error.code, message=error.message, user_error=error.user_error))
                else:
                    work.succeeded(found.model_dump(mode="json", exclude_unset=True), folder)
        work.close()

    def _keep(self, work: WorkKind, path: Path) -> None:
        with self.registry.artifacts.stage_file(path) as staged, self.registry.write() as unit:
            work.save_checkpoint(unit, "part", staged)

    def run_all(self) -> list[str]:
        """Do whatever is due, in turn; returns the records."""
        done = []
        while (work := self.claimed()) is not None:
            self.run(work)
            done.append(work.record_id)
        return done

    def shards(self, batch_id: str) -> list[tables.Piece]:
        """The shards of a batch, in order."""
        with self.registry.read() as unit:
            return list(unit.pieces.of(batch_id))

    def batch(self, batch_id: str) -> tables.Batch:
        """The batch as it stands now."""
        with self.registry.read() as unit:
            return unit.batches.get(batch_id)


def told(work: WorkKind, event: ChildEvent) -> None:
    """An event arrives."""
    work.note(event.model_dump(mode="json", exclude_unset=True))
