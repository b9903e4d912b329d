"""Reproducibility of a job's attempts, inside the sandbox: the same inputs, the same bits, and the last checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from fedlas.race.journal import FolderJournal
from service.registry.contract import JobRequest
from service.registry.documents import JsonObject
from worker.documents import ChildEvent, JobOrder, SavedCheckpoint
from worker.inside.work_function import Emit, Files

#: The prefix of the files that hold what earlier attempts have saved.
CHECKPOINT = "checkpoint."
#: Names of things rather than what they are, and where to tell of the end: they change nothing of what comes out.
_NOT_ASKED = {"webhook", "metadata", "model_id", "dataset_id"}


def asked(request: JobRequest) -> JsonObject:
    """What a request asks for; with `digests` it says what comes out."""
    return request.model_dump(exclude=_NOT_ASKED)


def digests(order: JobOrder) -> dict[str, str]:
    """What the job is given."""
    return {
        "model_sha256": order.model.sha256,
        "dataset_sha256": order.dataset.sha256,
        "prepared_dataset_sha256": order.dataset.prepared_sha256,
    }


def repeat_exactly() -> None:
    """The same job ends with the same bits: an accelerator's fastest kernels add up in any order."""
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)


class JobJournal(FolderJournal):
    """The journal of a job, into whose folder the supervisor puts what other processes have left, too."""

    def given(self, entries: Mapping[str, str]) -> None:
        """The supervisor has put these files there, by the names of their entries."""
        self.learn({name: self.folder / file for name, file in entries.items()})


def journal_of(order: JobOrder, files: Files, folder: Path, emit: Emit) -> JobJournal | None:
    """What earlier attempts have saved, and a folder for what this one saves and reports.

    None where the order asks for no checkpoints. The list of files says which entries there are.
    """
    if order.checkpoint_seconds is None:
        return None
    known = {name.removeprefix(CHECKPOINT): file for name, file in files.items() if name.startswith(CHECKPOINT)}
    given = {"request": asked(order.request), "profile": order.model.profile.stored(), **digests(order)}
    key = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()

    def on_saved(name: str, file: str) -> None:
        emit(ChildEvent(checkpoint=SavedCheckpoint(name=name, file=file)))

    return JobJournal(
        folder / "journal", key=key, known=known, on_saved=on_saved, every_seconds=order.checkpoint_seconds
    )
