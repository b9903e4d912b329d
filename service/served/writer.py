"""The writer of the served folder: control's own changes before they are answered, those of others as they come.

Each change of what answers is a numbered row of the registry, written in the transaction of the change. The writer
follows these numbers, and begins anew at its start, where some are missing, and every ten minutes.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from service.ipc.documents import refusal_of
from service.registry import tables
from service.registry.errors import Conflict, NotFound, RegistryError, Unavailable
from service.registry.registry import Registry, UnitOfWork
from service.served.folder import UNFINISHED, Layout, ModelEntry, NameEntry, VersionEntry, replace

_LOG = logging.getLogger(__name__)
#: Served copies that lie there at most; the one that was put there first goes first; it comes back when asked for.
_MAX_MODELS = 1000
#: Refusals that lie there at most: a client may make up any number of ids.
_MAX_REFUSED = 1000


class ServedWriter:
    """Writes one served folder; used in threads.

    Attributes:
        layout: of the folder.
    """

    def __init__(self, registry: Registry, root: Path) -> None:
        self.layout = Layout(root)
        self._registry = registry
        self._number: int | None = None  # of the last change that was followed
        self._turn = threading.Lock()
        self._models: dict[str, str] = {}  # the digests of those that lie there
        self._refused: dict[str, None] = {}
        self.layout.models.mkdir(parents=True, exist_ok=True)

    def follow(self) -> None:
        """Write what has changed since the last time; raises Unavailable, and goes on with the same the next time."""
        with self._turn, _told():
            with self._registry.read() as unit:
                newest = unit.served_changes.newest()
                changed = None if self._number is None else unit.served_changes.after(self._number)
                if changed is None or newest < (self._number or 0):
                    self._rebuild(unit)
                else:
                    self._write_all(unit, changed)
            if self._number != newest:
                replace(self.layout.complete, b"%d" % newest)
            self._number = newest

    def rewrite(self) -> None:
        """Compare everything with the registry, and write what differs.

        A file may have been damaged; a worker of an earlier release numbers no change, nor does a restored backup.
        """
        with self._turn:
            self._number = None
        self.follow()

    def coming(self) -> list[str] | None:
        """The ids of models that are to answer for a name, and do not yet; None where nothing has changed."""
        with self._registry.read() as unit:
            changed = None if self._number is None else unit.served_changes.after(self._number)
            if changed == [] and unit.served_changes.newest() == self._number:
                return None
            names = [called for called in changed or () if not called.startswith("mdl_")]
            entries = [entry for name in names if (entry := _name_entry(unit, name)) is not None]
        return [entry.versions[entry.default].model for entry in entries if not entry.unloaded]

    def give(self, model_id: str) -> None:
        """Put a served copy there, or say there why there is none; raises Unavailable."""
        with _told():
            with self._turn, self._registry.read() as unit:
                try:
                    entry = _model_entry(unit, model_id)
                except (NotFound, Conflict) as error:
                    self._refuse(model_id, error)
                    return
            if self._models.get(model_id) == entry.digest and self.layout.graph(model_id).exists():
                return
            try:
                self._link(model_id, entry.digest)
            except NotFound as error:  # the model exists: the request is right
                with self._turn:
                    lost = Unavailable(error.code, f"{model_id} cannot be opened: {error.message}")
                    self._refuse(model_id, error if error.code == "unknown_model" else lost)

    def holds(self, digest: str) -> bool:
        return digest in self._models.values()

    def name_of(self, digest: str) -> str:
        """The id of a model of this served copy, for the log."""
        return next((model_id for model_id, other in self._models.copy().items() if other == digest), "of this file")

    # Within a turn

    def _rebuild(self, unit: UnitOfWork) -> None:
        """Write every name; of models and refusals what lies there is looked at again."""
        unloaded = unit.names.unloaded()
        known = set()
        for name, versions in groupby(unit.names.all(), attrgetter("name")):
            if (path := self.layout.name(name)) is not None:
                entry = _entry_of(versions, unloaded=name in unloaded)
                replace(Path(path), entry.model_dump_json().encode())
                known.add(path)
        for file in self.layout.names.glob("*/*"):
            if str(file) not in known:
                file.unlink(missing_ok=True)
        for place in [*self.layout.models.iterdir(), *self.layout.refused.glob("*")]:
            if place.suffix:  # a refusal, or what is not whole
                _remove(place)
            else:
                self._models.setdefault(place.name, "")
                self._write_model(unit, place.name)
        self._refused.clear()

    def _write_all(self, unit: UnitOfWork, changed: Iterable[str]) -> None:
        """Write as many as can be, since one that cannot must not keep back a deletion; raises its OSError then."""
        failure = None
        for called in changed:
            try:
                self._write(unit, called)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def _write(self, unit: UnitOfWork, called: str) -> None:
        if called.startswith("mdl_"):
            self._write_model(unit, called)
        elif (path := self.layout.name(called)) is not None:
            entry = _name_entry(unit, called)
            if entry is None:
                Path(path).unlink(missing_ok=True)
            else:
                replace(Path(path), entry.model_dump_json().encode())

    def _write_model(self, unit: UnitOfWork, model_id: str) -> None:
        """Write the record of a served copy anew, or take it away; an id that was refused may be asked for again."""
        if model_id in self._refused:
            del self._refused[model_id]
            self.layout.refusal(model_id).unlink(missing_ok=True)
        if model_id not in self._models:
            return
        try:
            entry = _model_entry(unit, model_id)
            if not self.layout.graph(model_id).exists():
                raise NotFound("artifact_missing", f"the served copy of {model_id} was removed")
        except RegistryError:
            self._take_away(model_id)
        else:
            replace(Path(self.layout.entry(model_id)), entry.model_dump_json().encode())
            self._models[model_id] = entry.digest

    def _refuse(self, model_id: str, error: RegistryError) -> None:
        self.layout.refusal(model_id).unlink(missing_ok=True)  # its time counts
        replace(self.layout.refusal(model_id), refusal_of(0, error).model_dump_json().encode())
        self._refused[model_id] = None
        while len(self._refused) > _MAX_REFUSED:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            self.layout.refusal(oldest).unlink(missing_ok=True)

    def _take_away(self, model_id: str) -> None:
        self._models.pop(model_id, None)
        _remove(self.layout.models / model_id)

    # Served copies

    def _link(self, model_id: str, digest: str) -> None:
        """Put the file of a model into the folder, fetched first where it lies in a bucket."""
        fresh = Path(tempfile.mkdtemp(dir=self.layout.models, suffix=UNFINISHED))
        try:
            graph = fresh / self.layout.graph(model_id).name
            with self._registry.artifacts.held(digest) as stored:
                try:
                    os.link(stored, graph)
                except OSError:  # another file system
                    shutil.copyfile(stored, graph)
            with self._turn, self._registry.read() as unit:
                entry = _model_entry(unit, model_id)  # it may have been deleted meanwhile
                replace(fresh / Path(self.layout.entry(model_id)).name, entry.model_dump_json().encode())
                self._take_away(model_id)
                os.replace(fresh, self.layout.models / model_id)
                self._models[model_id] = entry.digest
                while len(self._models) > _MAX_MODELS:
                    self._take_away(next(iter(self._models)))
        finally:
            _remove(fresh)


def _name_entry(unit: UnitOfWork, name: str) -> NameEntry | None:
    versions = unit.names.versions_of(name)
    return _entry_of(versions, unloaded=unit.names.is_unloaded(name)) if versions else None


def _entry_of(rows: Iterable[tables.PublishedVersion], *, unloaded: bool) -> NameEntry:
    versions, default = {}, 0
    for row in rows:
        versions[row.version] = VersionEntry(model=row.model_id, priors=row.class_priors)
        default = row.version if row.is_default or default == 0 else default
    return NameEntry(default=default, versions=versions, unloaded=unloaded)


def _model_entry(unit: UnitOfWork, model_id: str) -> ModelEntry:
    """Raises NotFound `unknown_model`, Conflict `model_not_ready`."""
    row = unit.models.get(model_id)
    if row.status != "ready" or row.profile is None or row.served_sha256 is None:
        message = f"{row.id} is {row.status}; only ready models predict"
        raise Conflict("model_not_ready", message, passing=row.status == "inspecting")
    return ModelEntry(
        name=row.name,
        version=row.version,
        calibrated=row.calibrated,
        digest=row.served_sha256,
        unloaded=unit.names.is_unloaded(model_id),
        profile=row.profile,
    )


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


@contextmanager
def _told() -> Iterator[None]:
    """Raise Unavailable where the folder cannot be written: what lies there goes on answering."""
    try:
        yield
    except OSError as error:
        _LOG.error("the served folder cannot be written: %s", error)
        message = f"the served folder cannot be written ({error.strerror}); what was changed answers once it can be"
        raise Unavailable("unavailable", message) from error
