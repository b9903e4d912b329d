"""The sweep removes every file without an owner, and none that has one or is about to get one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from service.registry import tables
from service.registry.artifacts import ArtifactStore, StoredFile
from service.registry.database import open_engine
from service.registry.garbage_collection import CollectedGarbage, collect_garbage
from service.registry.registry import Registry, UnitOfWork
from service.registry.tables import new_id, now
from tests.helpers import ROOT
from tests.helpers.staging import stage_bytes
from tests.helpers.stores import Behind, make_older

pytestmark = pytest.mark.slow

HOUR = 3600.0
GRACE = timedelta(hours=1)

#: A process that is killed between storing a file and committing its record.
KILLED = """
import os, signal, sys
from service.registry.object_store import open_artifacts
from service.registry.settings import RegistrySettings
store = open_artifacts(RegistrySettings(data_dir=sys.argv[1], artifacts=sys.argv[2] or None))
staged = store.stage()
staged.write(b"orphan")
staged.seal()
staged.keep()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def registry(behind: Behind, store: ArtifactStore) -> Iterator[Registry]:
    """A migrated registry whose files lie in either kind of store."""
    opened = Registry(open_engine(behind.settings.resolved_database_url), store)
    opened.migrate()
    yield opened
    opened.close()


def name(unit: UnitOfWork, digest: str) -> str:
    """Add a record that names this file; returns its id."""
    return unit.datasets.add(
        tables.Dataset(id=new_id("ds"), name="d", bytes=1, sha256=digest, options={}, status="ready", created_at=now())
    ).id


def orphan(registry: Registry, content: bytes) -> str:
    """A stored file that no record names."""
    with stage_bytes(registry.artifacts, content) as staged:
        return staged.keep()


def owned(registry: Registry, content: bytes) -> str:
    """A stored file that a record names."""
    with stage_bytes(registry.artifacts, content) as staged, registry.write() as unit:
        digest = staged.keep()
        name(unit, digest)
    return digest


def sweep_mercilessly(registry: Registry) -> CollectedGarbage:
    """Take whatever has no owner at this very moment, but leave those on their way in: they have no name to go by."""
    return collect_garbage(registry, older_than=timedelta(seconds=-5), after="")


def test_only_old_orphans_are_swept(behind: Behind, registry: Registry) -> None:
    """Files that no record names and that are older than the grace period go; all else stays, also the second time."""
    old = [orphan(registry, b"old"), orphan(registry, b"older still")]
    fresh, kept = orphan(registry, b"fresh"), owned(registry, b"owned")
    behind.age([*old, kept], seconds=2 * HOUR)
    assert collect_garbage(registry, older_than=GRACE) == CollectedGarbage(
        looked_at=4, orphans=2, orphan_bytes=14, left_overs=0, left_over_bytes=0, next=None
    )
    assert behind.names() == {fresh, kept}
    assert collect_garbage(registry, older_than=GRACE).orphans == 0
    assert behind.names() == {fresh, kept}
    assert registry.artifacts.path(kept).read_bytes() == b"owned"


def test_a_killed_process_leaves_work_for_the_sweeper(behind: Behind, registry: Registry) -> None:
    """A file whose process was killed before it committed the record is swept after the grace, half files too."""
    arguments = [str(behind.settings.data_dir), behind.settings.artifacts or ""]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False).returncode == -9
    (digest,) = behind.names()
    half = registry.artifacts.incoming / "half"
    half.write_bytes(b"hal")
    assert collect_garbage(registry, older_than=GRACE) == CollectedGarbage(1, 0, 0, 0, 0, None)
    behind.age([digest], seconds=2 * HOUR)
    make_older(half, seconds=2 * HOUR)
    assert collect_garbage(registry, older_than=GRACE) == CollectedGarbage(1, 1, 6, 1, 3, None)
    assert behind.names() == set()


def test_one_call_looks_at_so_many(behind: Behind, registry: Registry) -> None:
    """A large store is swept in steps, each of at most so many files, which together visit every file once."""
    orphans = {orphan(registry, bytes([number])) for number in range(7)}
    kept = {owned(registry, bytes([number])) for number in range(100, 104)}
    behind.age(orphans | kept, seconds=2 * HOUR)
    steps = [collect_garbage(registry, older_than=GRACE, most_files=3)]
    while (after := steps[-1].next) is not None:
        steps.append(collect_garbage(registry, older_than=GRACE, after=after, most_files=3))
    assert [step.looked_at for step in steps] == [3, 3, 3, 2]
    assert sum(step.orphans for step in steps) == 7
    assert behind.names() == kept


def test_a_second_upload_of_an_orphan_is_safe(behind: Behind, registry: Registry) -> None:
    """Content that is about to be swept and comes again survives, wherever the sweeper comes between."""
    digest = orphan(registry, b"content")
    behind.age([digest], seconds=2 * HOUR)
    with stage_bytes(registry.artifacts, b"content") as staged:  # between sealing and keeping
        sweep_mercilessly(registry)
        assert behind.names() == set()
        with registry.write() as unit:
            name(unit, staged.keep())
    assert sweep_mercilessly(registry).orphans == 0
    assert behind.names() == {digest}


def test_an_open_transaction_is_waited_for(behind: Behind, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweeper that found a file without a name does not take it while somebody is giving it one."""
    digest = orphan(registry, b"content")
    found = threading.Event()
    go_on = threading.Event()
    listed = registry.artifacts.listed

    def listed_then_wait(*, after: str = "", limit: int) -> list[StoredFile]:
        files = listed(after=after, limit=limit)
        found.set()
        go_on.wait(30)
        return files

    monkeypatch.setattr(registry.artifacts, "listed", listed_then_wait)
    swept: list[CollectedGarbage] = []
    sweeper = threading.Thread(target=lambda: swept.append(sweep_mercilessly(registry)))
    with stage_bytes(registry.artifacts, b"content") as staged, registry.write() as unit:
        sweeper.start()
        assert found.wait(30)
        staged.keep()
        go_on.set()
        sweeper.join(0.5)
        assert sweeper.is_alive(), "it waits for its turn to write"
        name(unit, digest)
    sweeper.join(30)
    assert [step.orphans for step in swept] == [0]
    assert behind.names() == {digest}


def test_sweeping_without_mercy_loses_nothing(behind: Behind, registry: Registry) -> None:
    """While files come, are named, and lose their names, sweepers without any grace take none that is named."""
    stop = threading.Event()
    troubles: list[BaseException] = []

    def keep_sweeping() -> None:
        try:
            while not stop.is_set():
                sweep_mercilessly(registry)
        except BaseException as error:
            troubles.append(error)

    def store_and_forget(offset: int) -> None:
        try:
            for step in range(12):
                content = bytes([(offset + step) % 4])
                with stage_bytes(registry.artifacts, content) as staged, registry.write() as unit:
                    record = name(unit, staged.keep())
                digest = hashlib.sha256(content).hexdigest()
                assert digest in {file.digest for file in registry.artifacts.listed(limit=100)}
                with registry.write() as unit:
                    unnamed = unit.datasets.delete(record)
                registry.discard(unnamed)
        except BaseException as error:
            troubles.append(error)

    sweepers = [threading.Thread(target=keep_sweeping) for _ in range(2)]
    writers = [threading.Thread(target=store_and_forget, args=(offset,)) for offset in range(3)]
    for thread in sweepers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in sweepers:
        thread.join()
    assert troubles == []
    kept = owned(registry, b"at last")
    sweep_mercilessly(registry)
    assert behind.names() == {kept}
