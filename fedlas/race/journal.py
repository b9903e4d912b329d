"""Journals: entries of a race, kept between two attempts in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fedlas.training.checkpoints import State, read_state, write_state


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
        """The newest entry of that name that an earlier attempt or another process has left, None without one."""
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
        known: the files that earlier attempts and other processes have left, by the names of their entries.
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

    def learn(self, left: Mapping[str, Path]) -> None:
        """Others have left these files, by the names of their entries."""
        self._known.update(left)

    def write(self, name: str, entry: State) -> None:
        self._known.pop(name, None)
        self._written += 1
        self.folder.mkdir(exist_ok=True)
        file = f"{name}-{self._written:06d}.pt"
        write_state(self.folder / file, entry)
        self._on_saved(name, file)
