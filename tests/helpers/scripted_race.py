"""A race without networks: a job that is ready, its trainings, and children that follow a script."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.registry import tables
from service.registry.contract import JobRequest
from service.registry.registry import Registry
from service.registry.tables import new_id, now
from tests.helpers.documents import DATASET_PROFILE, MODEL_PROFILE
from tests.helpers.staging import stage_bytes
from worker.documents import CandidateOrder, GoOnReply, TrainReply, read_reply
from worker.outside.checkpoint_upload import FOLDER
from worker.sandbox.child_output import ChildOutcome
from worker.sandbox.protocol import ChildError, JsonObject
from worker.sandbox.replies import Replies

Json = dict[str, Any]

NAMES = tuple(f"candidate-{number:02}-10-fold-1" for number in range(1, 5))


def kept(registry: Registry, content: bytes) -> str:
    """A stored file."""
    with stage_bytes(registry.artifacts, content) as staged:
        return staged.keep()


def add_race(registry: Registry) -> str:
    """A queued job whose model and dataset are ready."""
    model = tables.Model(
        id=new_id("mdl"), name="m", bytes=1, sha256=kept(registry, b"m"), served_sha256=kept(registry, b"m"),
        profile=MODEL_PROFILE, origin="uploaded", status="ready", options={}, created_at=now(),
    )  # fmt: skip
    dataset = tables.Dataset(
        id=new_id("ds"), name="d", bytes=1, sha256=kept(registry, b"d"), status="ready", profile=DATASET_PROFILE,
        options={"split_seed": 0}, created_at=now(), prepared_sha256=kept(registry, b"p"),
    )  # fmt: skip
    row = tables.Job(
        id=new_id("job"), model_id=model.id, dataset_id=dataset.id, status="queued", progress={}, history=[],
        request=JobRequest(model_id=model.id, dataset_id=dataset.id).model_dump(), created_at=now(),
    )  # fmt: skip
    with registry.write() as unit:
        unit.models.add(model)
        unit.datasets.add(dataset)
        unit.jobs.open(row)
        unit.work.open(row.id)
    return row.id


def training(name: str, *, share: float = 0.2) -> Json:
    """The order of a training."""
    candidate = {
        "method": "cross_entropy", "learning_rate": 0.1, "epochs": 10, "scope": "all", "batch_size": 64,
        "optimizer": "sgd", "weight_decay": 0.001, "edge_share": 0.25, "usual_epochs": 10, "rate_is_fixed": False,
    }  # fmt: skip
    number = int(name.split("-")[1])
    place = {"number": number, "candidates": len(NAMES), "fold": 1, "folds": 3}
    return {"candidate": candidate, **place, "work_seconds": 30.0, "job_share": share}


def offers(names: Sequence[str] = NAMES) -> list[Json]:
    """What the child tells that leads: a rung, and that it waits."""
    return [*({"offer": {"name": name, "order": training(name)}} for name in names), {"asks": "training"}]


def epoch(name: str, number: int) -> Json:
    """An epoch of a training has ended."""
    of = {"candidate": "cross_entropy", "number": int(name.split("-")[1]), "fold": 1, "folds": 3, "epochs": 2}
    return {"event": {"type": "epoch", "data": {**of, "epoch": number, "loss": 1.0 / number, "seconds": 0.1}}}


def outcome_of(name: str) -> bytes:
    """What a training leaves, whoever does it."""
    return f"outcome of {name}".encode()


class ScriptedChild:
    """In the place of `sandbox.run`: it offers a rung where it leads, and does what it is told.

    Args:
        on_training: called with the name of each training and the child's tick, in its middle; what it raises ends the
            child as a supervisor's tick does, and what it returns is how the child dies.
    """

    def __init__(self, on_training: Callable[[str, Callable[[], None]], str | None] = lambda name, tick: None) -> None:
        self.trained: list[str] = []
        self.given: list[dict[str, bytes]] = []
        self._on_training = on_training

    def __call__(
        self,
        request: Any,
        *,
        folder: Path,
        on_event: Callable[[JsonObject], None],
        on_tick: Callable[[], None],
        replies: Replies,
    ) -> ChildOutcome:
        """Run the child."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        replies.connect(writer)
        try:
            return self._run(request, folder / FOLDER, on_event, on_tick, reader)
        finally:
            replies.disconnect()
            os.close(reader)
            os.close(writer)

    def _run(
        self, request: Any, journal: Path, tell: Callable[[JsonObject], None], tick: Callable[[], None], reader: int
    ) -> ChildOutcome:
        journal.mkdir(exist_ok=True)
        leads = not isinstance(request.order, CandidateOrder)
        for event in offers() if leads else [{"asks": "training"}]:
            tell(event)
        while isinstance(reply := read_reply(self._line(reader, tick)), TrainReply):
            self.given.append({name: (journal / file).read_bytes() for name, file in reply.entries.items()})
            if (died := self._train(reply.name, journal, tell, tick)) is not None:
                return ChildOutcome(died=died)
            tell({"asks": "training"})
        if isinstance(reply, GoOnReply):
            self.given.append({name: (journal / file).read_bytes() for name, file in reply.entries.items()})
            return ChildOutcome(error=ChildError(code="enough", message="the race is over", user_error=True))
        return ChildOutcome(result={"num_trainings": len(self.trained)})

    def _train(
        self, name: str, journal: Path, tell: Callable[[JsonObject], None], tick: Callable[[], None]
    ) -> str | None:
        file = f"{name}-{os.urandom(4).hex()}.pt"
        (journal / f"running-{file}").write_bytes(f"half of {name}".encode())
        tell({"share": 0.5, **epoch(name, 1), "checkpoint": {"name": "running", "file": f"running-{file}"}})
        if (died := self._on_training(name, tick)) is not None:
            return died
        (journal / file).write_bytes(outcome_of(name))
        tell({**epoch(name, 2), "checkpoint": {"name": name, "file": file}})
        self.trained.append(name)
        return None

    def _line(self, reader: int, tick: Callable[[], None]) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            tick()
            try:
                line += os.read(reader, 65536)
            except BlockingIOError:
                time.sleep(0.02)
        return line
