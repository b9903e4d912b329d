"""What makes an attempt at a job the same job again, inside the sandbox: its inputs, its bits, and where it had got to.

It knows neither the race nor the registry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fedlas.race.journal import FolderJournal, Journal

Json = dict[str, Any]
Emit = Callable[[Json], None]

#: Names of things rather than what they are, and where to tell of the end: they change nothing of what comes out.
_NOT_ASKED = ("webhook", "metadata", "model_id", "dataset_id")


def asked(request: Json) -> Json:
    """What a request asks for; with `digests` it says what comes out."""
    return {key: value for key, value in request.items() if key not in _NOT_ASKED}


def digests(spec: Json) -> dict[str, str]:
    """What the job is given."""
    return {
        "model_sha256": spec["model"]["sha256"],
        "dataset_sha256": spec["dataset"]["sha256"],
        "prepared_dataset_sha256": spec["dataset"]["prepared_sha256"],
    }


def repeat_exactly() -> None:
    """The same job ends with the same bits: an accelerator's fastest kernels add up in any order."""
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)


def journal_of(spec: Json, folder: Path, emit: Emit) -> Journal:
    """What earlier attempts have saved, and a folder for what this one saves, of which the supervisor is told.

    Without either, where nobody supervises. Which entries there are, the list of inputs says.
    """
    if "journal" not in spec:
        return Journal()
    known = {name: Path(entry["file"]) for name, entry in spec["journal"].items()}
    given = {"request": asked(spec["request"]), "profile": spec["model"]["profile"], **digests(spec)}
    key = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()

    def on_saved(name: str, file: str) -> None:
        emit({"checkpoint": {"name": name, "file": file}, "important": True})

    every = spec["checkpoint_seconds"]
    return FolderJournal(folder / "journal", key=key, known=known, on_saved=on_saved, every_seconds=every)
