"""The record of a race: what it has decided, finished and begun, kept in a journal for a later attempt to go on with.

What a clock decides would come out differently at a second asking, so it is written down as soon as it is decided.
Everything else follows from the seed and is worked out again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from fedlas.training.checkpoints import State, read_state, write_state

T = TypeVar("T")
Settings = Mapping[str, Any]
_LOG = logging.getLogger("fedlas.race")
#: Raised where what a race trains or writes down changes: what an older version has begun is not mixed with it.
_FORMAT = 6
_DECISIONS = "decisions"
_RUNNING = "running"


class Journal:
    """The interface of journals, and the one that keeps nothing: a race without a journal begins at the beginning.

    Attributes:
        key: a digest of all that the race is given; entries that were written under another key are never used.
        every_seconds: the training that runs is written down after each epoch, unless something was so recently: heads
            have epochs of milliseconds.
    """

    def __init__(self, key: str = "", *, every_seconds: float = 0.5) -> None:
        self.key, self.every_seconds = key, every_seconds

    def read(self, name: str) -> State | None:
        """The newest entry of that name that an earlier attempt has left, None without one."""
        return None

    def write(self, name: str, entry: State) -> None:
        """Keep an entry in place of an older one of that name; its tensors may change as soon as this returns.

        Raises:
            OSError: it cannot be kept; the race goes on.
        """


class FolderJournal(Journal):
    """A journal with one file per entry; `on_saved` is called to keep it.

    Args:
        folder: is made where it is not there; every write makes a new file in it, which `on_saved` may take away.
        known: the files that earlier attempts have left, by the names of their entries.
        on_saved: called with the name of an entry and the name of its file in `folder`, once it is complete.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: str,
        known: Mapping[str, Path],
        on_saved: Callable[[str, str], None],
        every_seconds: float = 0.5,
    ) -> None:
        super().__init__(key, every_seconds=every_seconds)
        self.folder, self._known, self._on_saved = folder, dict(known), on_saved
        self._written = 0

    def read(self, name: str) -> State | None:
        return read_state(self._known[name]) if name in self._known else None

    def write(self, name: str, entry: State) -> None:
        self._known.pop(name, None)
        self._written += 1
        self.folder.mkdir(exist_ok=True)
        file = f"{name}-{self._written:06d}.pt"
        write_state(self.folder / file, entry)
        self._on_saved(name, file)


class Record:
    """The entries of one race; those of any other, by the journal's key or by `settings`, are ignored."""

    def __init__(
        self, journal: Journal | None = None, settings: Settings | None = None, *, began: float | None = None
    ) -> None:
        self._journal = journal or Journal()
        race = {"format": _FORMAT, "torch": torch.__version__, "key": self._journal.key}
        self._race = _text({**race, "settings": dict(settings or {})})
        decisions, running = self._open(_DECISIONS), self._open(_RUNNING)
        self._decisions: State = dict(decisions["content"]) if decisions else {}
        self._spent: float = max((entry["elapsed"] for entry in (decisions, running) if entry), default=0.0)
        self._saved_at = time.perf_counter()
        self._began = self._saved_at if began is None else began

    def elapsed(self) -> float:
        """Seconds since the job began, those of earlier attempts among them as far as they left an entry."""
        return self._spent + time.perf_counter() - self._began

    def decided(self, what: str, decide: Callable[[], T]) -> T:
        """Decision about `what`, by this attempt or an earlier one; else `decide` is asked, once and for all.

        A decision is of plain values: numbers, texts, lists and mappings by texts.
        """
        if what not in self._decisions:
            self._decisions[what] = decide()
            self.keep(_DECISIONS, self._decisions)
        return cast(T, self._decisions[what])

    def once(self, what: str, act: Callable[[], None]) -> None:
        """Do what has to be done once, whatever the number of attempts; again only if killed in the very act."""

        def done() -> bool:
            act()
            return True

        self.decided(what, done)

    def entry(self, name: str, settings: Settings | None = None) -> State | None:
        entry = self._open(name)
        if (content := _content(entry, settings)) is not None and entry is not None:
            self._spent += max(0.0, entry["elapsed"] - self.elapsed())
        return content

    def running(self, name: str, settings: Settings) -> RunningCheckpoints:
        """The checkpoints of the training of this name, which runs now: only one does at a time."""
        mine = {"name": name, **settings}
        left = _content(self._open(_RUNNING), mine)
        return RunningCheckpoints(lambda content: self._save_running(mine, content), last=left or {})

    def _save_running(self, settings: Settings, content: Callable[[], State]) -> None:
        if time.perf_counter() - self._saved_at >= self._journal.every_seconds:
            self.keep(_RUNNING, content(), settings)

    def keep(self, name: str, content: State, settings: Settings | None = None) -> None:
        """Write something down; where that fails the race goes on."""
        entry = {"race": self._race, "settings": _text(settings), "elapsed": self.elapsed(), "content": content}
        try:
            self._journal.write(name, entry)
        except OSError as error:
            _LOG.warning("%s is not saved, the race goes on: %s", name, error)
        self._saved_at = time.perf_counter()

    def _open(self, name: str) -> State | None:
        entry = self._journal.read(name)
        if entry is None:
            return None
        sound = isinstance(entry.get("elapsed"), float) and isinstance(entry.get("content"), dict)
        if not sound or entry.get("race") != self._race or "settings" not in entry:
            _LOG.warning("the entry %s is of another race and is ignored", name)
            return None
        return entry


class RunningCheckpoints:
    """The checkpoints of one training: found where an earlier attempt left off, else begun anew."""

    def __init__(self, write: Callable[[Callable[[], State]], None], *, last: State) -> None:
        self._write, self._last = write, last
        self._began: float = time.perf_counter() - last.get("seconds", 0.0)

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def last(self) -> State | None:
        return self._last.get("state")

    def save(self, state: Callable[[], State]) -> None:
        """Write the state down, unless something was written only just now."""
        self._write(lambda: {"seconds": self.seconds(), "state": state()})


def _content(entry: State | None, settings: Settings | None) -> State | None:
    if entry is None or entry["settings"] != _text(settings):
        return None
    return cast(State, entry["content"])


def _text(settings: Settings | None) -> str:
    """Settings as something that is equal only where all of them are."""
    return json.dumps(None if settings is None else dict(settings), sort_keys=True)
