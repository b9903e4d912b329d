"""Both kinds of store, and what only somebody behind the scenes can do to them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from service.registry.artifacts import ArtifactStore
from service.registry.object_store import open_artifacts
from service.registry.settings import RegistrySettings
from tests.helpers.object_store import ObjectServer


class Behind(Protocol):
    """A place where files are stored."""

    settings: RegistrySettings

    def open(self) -> ArtifactStore:
        """The store as a process that has just started finds it."""

    def names(self) -> set[str]:
        """The digests of all that is stored."""

    def put(self, name: str, content: bytes) -> None:
        """Put a file there, whatever its name."""

    def forget(self, digest: str) -> None:
        """Delete a stored file."""

    def age(self, digests: Iterable[str], *, seconds: float) -> None:
        """Let stored files be older."""

    def leave(self) -> None:
        """Be away from now on."""

    def come_back(self) -> None:
        """Be there again."""


class BehindFolder:
    """A folder."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self._root = settings.resolved_artifacts

    def open(self) -> ArtifactStore:
        """Open it."""
        return open_artifacts(self.settings)

    def names(self) -> set[str]:
        """All files but those on their way in."""
        return {path.name for path in self._root.glob("??/*") if path.is_file()}

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        place = self._root / name[:2] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def forget(self, digest: str) -> None:
        """Delete the file, if it is there already."""
        (self._root / digest[:2] / digest).unlink(missing_ok=True)

    def age(self, digests: Iterable[str], *, seconds: float) -> None:
        """Set the times of files back."""
        for digest in digests:
            make_older(self._root / digest[:2] / digest, seconds=seconds)

    def leave(self) -> None:
        """Take the folder away as if the disk were not mounted."""
        self._root.rename(self._root.with_name("away"))

    def come_back(self) -> None:
        """Mount it again."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.with_name("away").rename(self._root)


class BehindBucket:
    """A bucket below a prefix; it loses its content while it is away."""

    PREFIX = "some/where"

    def __init__(self, settings: RegistrySettings, server: ObjectServer, bucket: str) -> None:
        self.settings = settings
        self.server = server
        self.bucket = bucket

    def open(self) -> ArtifactStore:
        """Open it."""
        return open_artifacts(self.settings)

    def names(self) -> set[str]:
        """The last parts of all keys."""
        listed = self.server.client().list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return {item["Key"].rpartition("/")[2] for item in listed}

    def put(self, name: str, content: bytes) -> None:
        """Store an object."""
        self.server.client().put_object(Bucket=self.bucket, Key=self.key(name), Body=content)

    def forget(self, digest: str) -> None:
        """Delete the object."""
        self.server.client().delete_object(Bucket=self.bucket, Key=self.key(digest))

    def age(self, digests: Iterable[str], *, seconds: float) -> None:
        """Let the server believe it."""
        for digest in digests:
            self.server.age(self.bucket, self.key(digest), seconds=seconds)

    def leave(self) -> None:
        """Stop the server."""
        self.server.stop()

    def come_back(self) -> None:
        """Start it again, with an empty bucket."""
        self.server.start()
        self.server.new_bucket(self.bucket)

    def key(self, digest: str) -> str:
        """Under which key a file is expected."""
        return f"{self.PREFIX}/{digest[:2]}/{digest}"


def make_older(path: Path, *, seconds: float) -> None:
    """Let a file on this disk be older."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
