"""The layout of the served folder: where each file lies, what is in it, and how it is replaced whole."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.registry.errors import NotFound

KEYS = "keys"
SUSPENDED = "suspended"
MODEL_ID = re.compile(r"mdl_[0-9a-z]{26}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MODELS = "models"
_NAMES = "names"
_REFUSED = "refused"
_COMPLETE = "complete"
_ENTRY = "model.json"
_GRAPH = "model.onnx"
#: The end of the name of what is not whole yet.
UNFINISHED = ".new"


def version_number(version: str) -> int:
    """The version that a path gives; raises NotFound for what can be none."""
    if not VERSION.fullmatch(version):
        raise NotFound("unknown_version", f"versions are numbers, not {version!r:.40}")
    return int(version)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionEntry(_Document):
    """A version of a name: the id of its model, and the class priors by which it answers where it has its own."""

    model: str
    priors: dict[str, float] | None = None


class NameEntry(_Document):
    default: int
    versions: dict[int, VersionEntry]
    unloaded: bool = False


class ModelEntry(_Document):
    """The record of a served copy; `profile` as inspection has stored it."""

    name: str
    version: int
    calibrated: bool
    digest: str
    unloaded: bool
    profile: Mapping[str, Any]


class Layout:
    """The paths of a served folder, which need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = root / _NAMES
        self.models = root / _MODELS
        self.refused = root / _REFUSED
        self.complete = root / _COMPLETE
        self._root = str(root)

    def name(self, name: str) -> str | None:
        """The file of a name; None for what can be none, whatever a client has sent."""
        if not _NAME.fullmatch(name):
            return None
        return f"{self._root}/{_NAMES}/{blake2b(name.encode(), digest_size=1).hexdigest()}/{name}.json"

    def entry(self, model_id: str) -> str:
        return f"{self._root}/{_MODELS}/{model_id}/{_ENTRY}"

    def graph(self, model_id: str) -> Path:
        return self.models / model_id / _GRAPH

    def refusal(self, model_id: str) -> Path:
        return self.refused / f"{model_id}.json"


def replace(path: Path, content: bytes) -> None:
    """Write a file aside and put it in place, if it says anything new; raises OSError and leaves what was there."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    fresh = path.with_name(path.name + UNFINISHED)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
