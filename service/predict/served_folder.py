"""The reader of the served folder: what a name or id means, by one look at its file for each request.

A look that finds the file unchanged takes some microseconds, so that the next request after a change sees it. Models of
which no copy lies there are asked for by their ids; nothing is asked about names and keys.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from fedlas.contract.predictions import ServedModel
from service.ipc.documents import Refusal, error_of
from service.predict.engine.profile import ServingProfile
from service.predict.engine.quarantine import Quarantine
from service.registry.errors import Conflict, NotFound, RegistryError, Unavailable
from service.served.folder import MODEL_ID, SUSPENDED, Layout, ModelEntry, NameEntry, VersionEntry, version_number

Entry = TypeVar("Entry", bound=BaseModel)

#: Entries that are remembered; beyond them the oldest is read again.
_MAX_ENTRIES = 10_000
_SHOWN_VERSIONS = 20
#: After this time it is asked again for a model that was refused: its file may have come back.
_REFUSED_S = 10.0


@dataclass(frozen=True, eq=False)
class ResolvedModel:
    """The ready model that a name or id means.

    Attributes:
        called: the published name or id that was asked for; version: the one behind it.
        digest: of its served copy.
        served: the record `model` of an answer, as JSON.
        profile: of requests and answers, at the class priors of the name.
    """

    called: str
    version: str
    model_id: str
    digest: str
    served: bytes
    profile: ServingProfile


class NotHere(Exception):
    """The folder holds no served copy of this model yet, and no word why; its argument is the id."""


#: Inode and time of a file: another content has others.
Stamp = tuple[int, int]


class _Known(NamedTuple):
    path: str
    stamp: Stamp
    resolved: ResolvedModel


class ServedFolder:
    """Names and ids with the models that they mean, as the files of a folder say; `file` is for any thread.

    Attributes:
        quarantine: the files that are suspended.
    """

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self.quarantine = Quarantine(root / SUSPENDED)
        self._is_complete = False
        self._known: dict[tuple[str, str | None], _Known] = {}
        self._profiles: dict[tuple[str, object], ServingProfile] = {}

    def look_up(self, called: str, version: str | None = None) -> ResolvedModel:
        """The model that answers now.

        Raises:
            NotFound: `unknown_model`, `unknown_version`.
            Conflict: `model_not_ready`, `model_unloaded`.
            Unavailable: names are not written yet.
            NotHere: its served copy is to be asked for.
        """
        known = self._known.get((called, version))
        path = self._path(called) if known is None else known.path
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise self._missing(called) from None
        stamp = status.st_ino, status.st_mtime_ns
        if known is None or known.stamp != stamp:
            is_id = called.startswith("mdl_")
            resolved = self._resolve_id(called, version) if is_id else self._resolve_name(path, called, version)
            known = _Known(path, stamp, resolved)
            if len(self._known) >= _MAX_ENTRIES and (called, version) not in self._known:
                del self._known[next(iter(self._known))]
            self._known[called, version] = known
        return known.resolved

    def _path(self, called: str) -> str:
        """The file of a name or id; of what can be neither, that of no file."""
        return self._layout.entry(called) if MODEL_ID.fullmatch(called) else self._layout.name(called) or ""

    def check(self, digest: str) -> None:
        self.quarantine.check(digest)

    def newest(self, count: int) -> list[str]:
        """The ids of served copies that were put here last, as many as this."""
        with suppress(FileNotFoundError):
            entries = [entry for entry in os.scandir(self._layout.models) if MODEL_ID.fullmatch(entry.name)]
            return [entry.name for entry in sorted(entries, key=lambda entry: -entry.stat().st_mtime_ns)[:count]]
        return []

    def has_word_of(self, model_id: str) -> bool:
        """True where a served copy lies here, or why there is none."""
        return os.path.exists(self._layout.entry(model_id)) or self._refused(model_id) is not None

    @contextmanager
    def file(self, digest: str) -> Iterator[Path]:
        """The path of a served copy that was looked up; raises NotFound where it was taken away."""
        # Several models may be one file, and any of them may go.
        models = {known.resolved.model_id for known in self._known.copy().values() if known.resolved.digest == digest}
        path = next(filter(Path.is_file, map(self._layout.graph, models)), None)
        if path is None:
            raise NotFound("artifact_missing", f"the served copy {digest[:12]}… is not here")
        yield path

    def _missing(self, called: str) -> Exception:
        """The error of a name or id without a file; an id may be that of a model that was not asked for before."""
        if not self._is_complete:
            self._is_complete = self._layout.complete.exists()
            if not self._is_complete:
                return Unavailable("unavailable", "the service is starting; come again in 1 s")
        if not MODEL_ID.fullmatch(called):
            return NotFound("unknown_model", f"there is no model with the id or published name {called!r}")
        return self._refused(called) or NotHere(called)

    def _refused(self, model_id: str) -> RegistryError | None:
        """The reason why the model of an id does not answer, as far as that was said a moment ago."""
        path = self._layout.refusal(model_id)
        with suppress(OSError, ValidationError):
            if time.time() - path.stat().st_mtime < _REFUSED_S:
                return error_of(Refusal.model_validate_json(path.read_bytes()))
        return None

    def _resolve_name(self, path: str, name: str, version: str | None) -> ResolvedModel:
        entry = _read(path, NameEntry)
        number = entry.default if version is None else version_number(version)
        if (chosen := entry.versions.get(number)) is None:
            numbers = list(map(str, entry.versions))
            shown = ", ".join(numbers[-_SHOWN_VERSIONS:])
            shown = shown if len(numbers) <= _SHOWN_VERSIONS else f"… {shown}"
            raise NotFound("unknown_version", f"{name!r} has the versions {shown}, not {number}")
        _check_loaded(entry.unloaded, name)
        return self._resolved(name, number, chosen, self._model(chosen.model))

    def _resolve_id(self, model_id: str, version: str | None) -> ResolvedModel:
        entry = self._model(model_id)
        if version not in (None, str(entry.version)):
            raise NotFound("unknown_version", f"{model_id!r} is version {entry.version}, not {version}")
        _check_loaded(entry.unloaded, model_id)
        return self._resolved(model_id, entry.version, VersionEntry(model=model_id), entry)

    def _model(self, model_id: str) -> ModelEntry:
        try:
            return _read(self._layout.entry(model_id), ModelEntry)
        except NotFound:
            raise self._missing(model_id) from None

    def _resolved(self, called: str, number: int, version: VersionEntry, entry: ModelEntry) -> ResolvedModel:
        # A name is answered with itself: behind it may be an upload, whose record has another name.
        name = entry.name if called == version.model else called
        served = ServedModel(id=version.model, name=name, version=number, calibrated=entry.calibrated)
        return ResolvedModel(
            called=called,
            version=str(number),
            model_id=version.model,
            digest=entry.digest,
            served=served.model_dump_json().encode(),
            profile=self._profile(version, entry),
        )

    def _profile(self, version: VersionEntry, entry: ModelEntry) -> ServingProfile:
        """The profile of a model, which never changes; to read a hundred thousand class names takes milliseconds.

        Raises Unavailable for one that says nothing of use: it may be of another release, or of a worker that lies.
        """
        key = (version.model, None if version.priors is None else tuple(version.priors.items()))
        if (profile := self._profiles.get(key)) is None:
            try:
                plain = ServingProfile.of(entry.profile)
                profile = plain if version.priors is None else replace(plain, shift=plain.shift_to(version.priors))
            except (ValueError, LookupError, TypeError, RegistryError) as error:
                message = f"the profile of {version.model} cannot be read: {error}"
                raise Unavailable("model_cannot_be_opened", message) from error
            if len(self._profiles) >= _MAX_ENTRIES:
                self._profiles.clear()
            self._profiles[key] = profile
        return profile


def _check_loaded(unloaded: bool, called: str) -> None:
    if unloaded:
        raise Conflict("model_unloaded", f"{called!r} was unloaded; POST /v2/repository/models/{called}/load first")


def _read(path: str, kind: type[Entry]) -> Entry:
    """Raises NotFound where the file was taken away meanwhile, Unavailable where it cannot be read."""
    try:
        return kind.model_validate_json(Path(path).read_bytes())
    except FileNotFoundError:
        raise NotFound("unknown_model", f"there is no model called {Path(path).stem!r} any more") from None
    except (OSError, ValidationError) as error:
        raise Unavailable("unavailable", f"the served folder cannot be read: {type(error).__name__}") from error
