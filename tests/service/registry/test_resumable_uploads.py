"""Files that arrive in pieces: their length is the truth, one writer at a time, and their digest is always right."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from service.registry import tables
from service.registry.errors import Conflict, UnknownReference
from service.registry.registry import Registry
from service.registry.resumable_uploads import ResumableUploads
from service.registry.tables import now

LONG_AGO = 25 * 3600


@pytest.fixture
def files(tmp_path: Path) -> ResumableUploads:
    """A folder with one empty file `f`."""
    made = ResumableUploads(tmp_path / "uploads")
    made.create("f")
    return made


def append(files: ResumableUploads, content: bytes) -> None:
    """One piece that is kept."""
    with files.open("f") as file:
        file.write(content)
        file.seal()


def digest(files: ResumableUploads) -> str:
    """The digest that is reported for the file."""
    with files.open("f") as file:
        return file.digest()


def test_pieces_follow_each_other(files: ResumableUploads) -> None:
    """Offset and digest are those of all pieces so far, whether this process or another one received them."""
    content = b""
    for piece in (b"one", b"", b"two", b"three"):
        append(files, piece)
        content += piece
        assert files.state("f")[0] == len(content)
        assert digest(files) == hashlib.sha256(content).hexdigest()
    restarted = ResumableUploads(files.folder)
    append(restarted, b"four")
    assert digest(restarted) == hashlib.sha256(content + b"four").hexdigest()
    append(files, b"five")  # the first process knows an earlier part only
    assert digest(files) == hashlib.sha256(content + b"fourfive").hexdigest()
    assert (files.folder / "f").read_bytes() == content + b"fourfive"


def test_a_piece_can_be_taken_back(files: ResumableUploads) -> None:
    """Bytes that are taken back leave the file and its digest as they were, and other bytes may follow."""
    append(files, b"kept")
    with files.open("f") as file:
        file.write(b"wrong")
        file.take_back()
        assert file.size == 4
    assert (files.state("f")[0], digest(files)) == (4, hashlib.sha256(b"kept").hexdigest())
    append(files, b" and more")
    assert digest(files) == hashlib.sha256(b"kept and more").hexdigest()


def test_one_writer_at_a_time(files: ResumableUploads) -> None:
    """While the file is held no other holder gets it, not even in another process; reading its state is free."""
    with files.open("f") as file:
        for others in (files, ResumableUploads(files.folder)):
            with pytest.raises(Conflict) as refused:
                others.open("f")
            assert refused.value.code == "upload_busy"
        file.write(b"x")
        assert files.state("f")[0] == 1
        # A child does not inherit the descriptor: only then does the kernel free the lock when its holder dies.
        assert not os.get_inheritable(file._descriptor)
    append(files, b"y")


def test_expired_uploads_are_forgotten(registry: Registry) -> None:
    """After a day without a byte row and file go; a fresh upload, and one that receives just now, stay."""
    old = time.time() - LONG_AGO
    for name in ("upl_old", "upl_held", "upl_fresh"):
        registry.resumable_uploads.create(name)
        with registry.write() as unit:
            unit.uploads.add(tables.Upload(id=name, bytes=5, created_at=now()))
        if name != "upl_fresh":
            os.utime(registry.resumable_uploads.folder / name, (old, old))
    (registry.resumable_uploads.folder / "upl_left").touch()  # its row became a record, and then the process was killed
    os.utime(registry.resumable_uploads.folder / "upl_left", (old, old))
    with registry.resumable_uploads.open("upl_held"):
        assert list(registry.forget_expired_uploads()) == ["upl_left", "upl_old"]
    assert sorted(path.name for path in registry.resumable_uploads.folder.iterdir()) == ["upl_fresh", "upl_held"]
    with registry.read() as unit:
        assert [unit.uploads.find(name) is None for name in ("upl_old", "upl_held", "upl_fresh")] == [
            True,
            False,
            False,
        ]


def test_an_upload_is_taken_once(registry: Registry) -> None:
    """A second taker of an upload finds none; a transaction that fails takes nothing."""
    with registry.write() as unit:
        unit.uploads.add(tables.Upload(id="upl_1", bytes=5, created_at=now()))
    with pytest.raises(RuntimeError), registry.write() as unit:
        unit.uploads.consume("upl_1")
        raise RuntimeError
    with registry.write() as unit:
        unit.uploads.consume("upl_1")
    with pytest.raises(UnknownReference), registry.write() as unit:
        unit.uploads.consume("upl_1")
