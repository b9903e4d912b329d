"""Stored files in a folder and in a bucket: whole or not there, found by their content, and honest when it fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from service.registry.artifacts import ArtifactStore
from service.registry.errors import NotFound, TooLarge, Unavailable
from service.registry.object_store import open_artifacts
from service.registry.resumable_uploads import ResumableUploads
from service.registry.settings import RegistrySettings
from tests.helpers.staging import stage_bytes
from tests.helpers.stores import Behind, make_older

HOUR = 3600.0
ROOT = Path(__file__).parents[3]

#: A process that is killed while it stores `content`, before or after it sealed the file.
KILLED = """
import os, signal, sys
from service.registry.object_store import open_artifacts
from service.registry.settings import RegistrySettings
store = open_artifacts(RegistrySettings(data_dir=sys.argv[1], artifacts=sys.argv[2] or None))
staged = store.stage()
staged.write(b"content")
if sys.argv[3] == "sealed":
    staged.seal()
else:
    staged._file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def sha256(content: bytes) -> str:
    """The name of a file with this content."""
    return hashlib.sha256(content).hexdigest()


def keep(store: ArtifactStore, content: bytes) -> str:
    """Store a file."""
    with stage_bytes(store, content) as staged:
        return staged.keep()


def killed(settings: RegistrySettings, when: str) -> None:
    """A process of its own begins to store a file and is killed."""
    arguments = [str(settings.data_dir), settings.artifacts or "", when]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False).returncode == -9


def test_a_kept_file_is_found_by_its_content(behind: Behind, store: ArtifactStore, tmp_path: Path) -> None:
    """However a file comes in, it is stored under the digest of its content, whole, and nothing else is left."""
    source = tmp_path / "source"
    source.write_bytes(b"from a file" * 200_000)
    with store.stage() as written, store.stage_file(source) as copied, stage_bytes(store, b"bytes") as given:
        written.write(b"piece ")
        written.write(b"by piece")
        assert (written.size, copied.size, given.size) == (14, 2_200_000, 5)
        digests = [staged.keep() for staged in (written, copied, given)]
    contents = [b"piece by piece", b"from a file" * 200_000, b"bytes"]
    assert digests == [sha256(content) for content in contents]
    assert behind.names() == set(digests)
    for opened in (store, behind.open()):
        assert [opened.path(digest).read_bytes() for digest in digests] == contents
        with opened.held(digests[0]) as path:
            assert path.read_bytes() == contents[0]
    assert list(store.incoming.iterdir()) == []


def test_what_is_not_kept_is_not_there(behind: Behind, store: ArtifactStore) -> None:
    """A writer that fails, passes the limit or changes its mind leaves no file, with or without a name."""

    def fail() -> None:
        with store.stage() as staged:
            staged.write(b"half")
            raise RuntimeError

    def exceed() -> None:
        with store.stage(limit=10) as staged:
            staged.write(b"12345")
            staged.write(b"123456")

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(TooLarge):
        exceed()
    stage_bytes(store, b"changed its mind").close()
    assert behind.names() <= {sha256(b"changed its mind")}, "a sealed file may wait for its record, whole"
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize("when", ["written", "sealed"])
def test_a_killed_writer_leaves_nothing_half_written(behind: Behind, when: str) -> None:
    """Killed before `keep`, a writer leaves a whole file that nothing names or none, and a left-over of some size."""
    killed(behind.settings, when)
    store = behind.open()
    whole = {sha256(b"content")}
    assert behind.names() in ([whole, set()] if when == "sealed" else [set()])
    for digest in behind.names():
        assert store.path(digest).read_bytes() == b"content"
    assert store.clear_left_overs(older_than=timedelta(hours=1)) == []
    (left_over,) = store.incoming.iterdir()
    make_older(left_over, seconds=2 * HOUR)
    assert store.clear_left_overs(older_than=timedelta(hours=1)) == [7]
    assert list(store.incoming.iterdir()) == []


def test_an_open_file_is_stored_whole(store: ArtifactStore, tmp_path: Path) -> None:
    """The content of an open file counts, wherever it was read to and whatever its name leads to by now."""
    source = tmp_path / "source"
    source.write_bytes(b"the right content")
    with source.open("rb") as file:
        file.seek(5)
        source.unlink()
        source.symlink_to("/etc/passwd")
        with store.stage_open(file.fileno()) as staged:
            digest = staged.keep()
        assert file.read() == b"ight content", "it stays open, and where it was"
    assert store.path(digest).read_bytes() == b"the right content"


def test_what_is_not_stored_is_not_found(behind: Behind, store: ArtifactStore) -> None:
    """An unknown digest and a removed file are NotFound with a code; removing twice is no error."""
    digest = keep(store, b"content")
    for _ in range(2):
        store.remove([digest])
    assert behind.names() == set()
    for unknown in (digest, "ab" * 32):
        with pytest.raises(NotFound) as caught:
            store.path(unknown)
        assert caught.value.code == "artifact_missing"


def test_the_same_content_is_the_same_file(behind: Behind, store: ArtifactStore) -> None:
    """Content that is there already stays as it is: a child may be about to open the very file."""
    digest = keep(store, b"content")
    before = store.path(digest).stat().st_ino
    assert keep(store, b"content") == digest
    assert store.path(digest).stat().st_ino == before
    assert behind.names() == {digest}


def test_a_deletion_may_come_between(behind: Behind, store: ArtifactStore) -> None:
    """A file that was sealed and then taken away by the deletion of another record is there when it is kept."""
    with stage_bytes(store, b"content") as staged:
        behind.forget(staged.digest)
        digest = staged.keep()
    assert behind.names() == {digest}
    assert behind.open().path(digest).read_bytes() == b"content"


def test_a_partial_file_is_adopted(behind: Behind, store: ArtifactStore) -> None:
    """A file that came in pieces becomes an artifact and keeps its own name too, so that the record may still fail."""
    files = ResumableUploads(store.uploads)
    files.create("upl_1")
    with files.open("upl_1") as file:
        file.write(b"piece by piece")
        file.seal()
        digest = file.digest()
        store.deliver(file.path, digest)
        for _ in range(2):
            store.adopt(file.path, digest)
        assert file.path.read_bytes() == b"piece by piece"
    assert behind.names() == {digest}
    files.remove("upl_1")
    for opened in (store, behind.open()):
        assert opened.path(digest).read_bytes() == b"piece by piece"


def test_a_store_that_is_away_says_so(behind: Behind, store: ArtifactStore) -> None:
    """While the store is away everything is Unavailable, nothing is NotFound; when it is back everything works."""
    staged = stage_bytes(store, b"under way")
    attempts: list[Callable[[], object]] = [
        lambda: keep(store, b"new"),
        staged.keep,
        lambda: store.path(sha256(b"never asked for")),
        lambda: store.listed(limit=10),
        lambda: store.clear_left_overs(older_than=timedelta(hours=1)),
        store.clock,
    ]
    behind.leave()
    try:
        for attempt in attempts:
            with pytest.raises(Unavailable) as caught:
                attempt()
            assert caught.value.code == "storage_unavailable"
        with pytest.raises((OSError, Unavailable)):
            store.check()
    finally:
        behind.come_back()
    store.check()
    assert staged.keep() == sha256(b"under way")
    assert keep(store, b"new") == sha256(b"new")
    assert {sha256(b"under way"), sha256(b"new")} <= behind.names()


def test_files_are_listed_in_order(behind: Behind, store: ArtifactStore) -> None:
    """Every file is listed once, in the order of digests, with its size, piece by piece; others' files are not ours."""
    sizes = {keep(store, bytes(number)): number for number in range(1, 8)}
    for foreign in ("notes.txt", "ab" * 31, "AB" * 32):
        behind.put(foreign, b"somebody else's")
    found, after = [], ""
    while batch := store.listed(after=after, limit=3):
        assert len(batch) <= 3
        found += batch
        after = batch[-1].digest
    assert [(file.digest, file.size) for file in found] == sorted(sizes.items())
    moment = store.clock()
    assert all(abs(moment - file.changed) < timedelta(minutes=1) for file in found)


def test_only_what_is_old_expires(behind: Behind, store: ArtifactStore) -> None:
    """A file expires once nothing has touched it since; storing the same content again is a touch."""
    old, again = keep(store, b"old"), keep(store, b"again")
    hour_ago = store.clock() - timedelta(hours=1)
    assert not store.expire(old, before=hour_ago)
    behind.age([old, again], seconds=2 * HOUR)
    keep(store, b"again")
    assert [store.expire(digest, before=hour_ago) for digest in (old, again, "ab" * 32)] == [True, False, False]
    assert behind.names() == {again}


def test_a_full_disk_is_said_and_harms_nothing(behind: Behind, small_disk: Path) -> None:
    """Where no space is left storing is Unavailable and leaves nothing; what was stored stays, and space returns."""
    store = open_artifacts(behind.settings.model_copy(update={"data_dir": small_disk}))
    content = os.urandom(600_000)
    digest = keep(store, content)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught, store.stage() as staged:
            for _ in range(4):
                staged.write(os.urandom(500_000))
            staged.seal()
        assert caught.value.code == "storage_unavailable"
        assert list(store.incoming.iterdir()) == []
    assert store.path(digest).read_bytes() == content
    assert [file.digest for file in store.listed(limit=10)] == [digest]
    assert store.expire(digest, before=store.clock() + timedelta(hours=1))
    assert keep(store, os.urandom(800_000)) != digest


def test_settings_name_a_folder_or_a_bucket(tmp_path: Path) -> None:
    """One setting names either; a bucket's copies lie in the data folder, and no bucket is a mistake."""

    def named(artifacts: str | None) -> RegistrySettings:
        return RegistrySettings(data_dir=tmp_path, artifacts=artifacts)

    assert [named(text).artifact_bucket for text in (None, "files", "s3://b", "s3://b/", "s3://b/c/d/")] == [
        None, None, ("b", ""), ("b", ""), ("b", "c/d"),
    ]  # fmt: skip
    assert named(None).resolved_artifacts == tmp_path / "artifacts"
    assert named(str(tmp_path / "files")).resolved_artifacts == tmp_path / "files"
    assert named("s3://b/c").resolved_artifacts == tmp_path / "artifact-cache"
    for wrong in ("s3://", "s3:///prefix"):
        with pytest.raises(ValueError, match="names no bucket"):
            named(wrong)


def test_a_folder_needs_no_client_of_s3(tmp_path: Path) -> None:
    """With files in a folder boto3, which is an extra, is never loaded."""
    code = (
        "import sys; from service.registry.object_store import open_artifacts; "
        "from service.registry.settings import RegistrySettings; "
        f"open_artifacts(RegistrySettings(data_dir={str(tmp_path)!r}, artifacts=None)); print('boto3' in sys.modules)"
    )
    answered = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answered.stdout == "False\n"
