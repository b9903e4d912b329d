"""Local files of a command: looked at before anything is ordered, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedlas.cli.failures import CommandError


def file_of(path: Path) -> Path:
    """The path of a file that can be read; raises what the system says of it otherwise."""
    path.open("rb").close()
    return path


def require_writable(path: Path | None, *suffixes: str) -> None:
    """Raise where a file could not be written later, when the work is done."""
    if path is None:
        return
    if path.exists() and not path.is_file():  # a device would be replaced by a file
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise CommandError(f"{path}: is {what}; needed is the name of a file to write")
    if suffixes and path.suffix not in suffixes:
        raise CommandError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"{path}: there is no folder {path.absolute().parent} to write it into")


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a file beside it, and put that in its place; raises what the system says, with its name."""
    target = path.resolve()  # a link stays a link
    partial = target.with_name(f".part-{target.name}")
    try:
        save(partial)
        partial.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
