"""Backups beside a running service, and restores that are whole or not at all, however they end."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fedlas.cli import main as fedlas
from service.cli import main
from service.processes.supervision import locked
from service.registry import backups, tables
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from service.registry.tables import new_id, now
from tests.helpers import ROOT
from tests.helpers.killed import run_until
from tests.helpers.modes import open_to_others
from tests.helpers.staging import stage_bytes

POINTS = 20
_PRE_RELEASE = ROOT / "tests" / "data" / "data_of_2026_11_27.tar.xz"
#: A service that is killed when it has written so many records, and leaves what it wrote in `-wal`.
_KILLED = """
import os, sys
from pathlib import Path
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.service.registry.test_backups import add
registry = Registry.open(ServiceSettings(data_dir=Path(sys.argv[1])))
registry.migrate()
for number in range(int(sys.argv[2])):
    add(registry, os.urandom(8))
os.kill(os.getpid(), 9)
"""


def add(registry: Registry, content: bytes) -> str:
    """A dataset of this content; returns its id."""
    with stage_bytes(registry.artifacts, content) as staged, registry.write() as unit:
        digest, ready = staged.keep(), {"options": {}, "status": "ready", "created_at": now()}
        return unit.datasets.add(tables.Dataset(id=new_id("ds"), name="d", bytes=1, sha256=digest, **ready)).id


def kept(folder: Path) -> list[str]:
    """The records of a data folder or a backup, each file that they name being there."""
    with closing(sqlite3.connect(folder / "registry.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for (digest,) in connection.execute("SELECT sha256 FROM datasets").fetchall():
            assert (folder / "artifacts" / digest[:2] / digest).is_file()
        return list(connection.iterdump())


def killed(folder: Path, *, records: int) -> None:
    command = [sys.executable, "-c", _KILLED, str(folder), str(records)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert (folder / "registry.sqlite-wal").stat().st_size > 0


def said(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command of the service refuses."""
    capsys.readouterr()
    assert fedlas([str(argument) for argument in arguments]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n"), told.err[:8]) == ("", 1, "fedlas: ")
    return told.err


@pytest.mark.slow
@pytest.mark.embedded
def test_a_restore_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    """A killed restore leaves the old state or the new one, without a revoked key, and the second call the new one.

    Only a process can be killed, and only a killed one leaves a `-wal` with records.
    """
    data, backup = tmp_path / "data", tmp_path / "backup"
    killed(data, records=5)
    with closing(Registry.open(ServiceSettings(data_dir=data, database_url=None))) as registry:
        revoked = issue(registry, "revoked")
        assert main(["backup", str(backup), "--data-dir", str(data)]) == 0
        with registry.write() as unit:
            unit.api_keys.revoke(revoked)
    killed(data, records=40)

    def restore(folder: Path) -> list[str]:
        return ["restore", str(backup), "--data-dir", str(folder)]

    shutil.copytree(data, tmp_path / "whole")
    total = run_until(None, *restore(tmp_path / "whole"))
    new = kept(tmp_path / "whole")
    old = kept(shutil.copytree(data, tmp_path / "old"))
    left = []
    for point in range(1, POINTS + 1):
        folder = shutil.copytree(data, tmp_path / str(point))
        run_until(total * point // POINTS, *restore(folder))
        left.append(kept(folder))
        assert main(restore(folder)) == 0
        assert not list(folder.glob("registry.sqlite?*"))
        assert kept(folder) == new
    assert "'revoked'" not in "".join(new)
    assert [one for one in left if one not in (old, new)] == []  # not even with the key open for a moment
    assert old in left
    assert new in left
    print(f"restore after kill -9: {len(left)} of {POINTS}")


@pytest.mark.slow
@pytest.mark.embedded
def test_a_migration_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    """The second call has the same result as one alone, and what it kept undoes both. Only a process can be killed."""

    def unpacked(name: str) -> Path:
        with tarfile.open(_PRE_RELEASE) as packed:
            packed.extractall(tmp_path / name, filter="data")
        return tmp_path / name

    total = run_until(None, "migrate", "--data-dir", str(unpacked("whole")))
    before, after = kept(unpacked("before")), kept(tmp_path / "whole")
    finished = 0
    for point in range(1, POINTS + 1):
        folder = unpacked(str(point))
        run_until(total * point // POINTS, "migrate", "--data-dir", str(folder))
        assert main(["migrate", "--data-dir", str(folder)]) == 0
        assert kept(folder) == after
        assert main(["restore", str(folder / "before-0.1"), "--data-dir", str(folder)]) == 0
        assert kept(folder) == before
        finished += 1
    print(f"migrate killed: {finished} of {POINTS}")


@pytest.mark.embedded
def test_a_backup_beside_writers_has_each_file_that_it_names(
    registry: Registry, settings: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records come and go meanwhile; nobody else may read what is written, and nothing waits in a `-wal`."""
    stop, dump = threading.Event(), backups.dump
    monkeypatch.setattr(backups, "dump", lambda *given: (dump(*given), stop.wait(0.05)))  # a file goes, if it may

    def churn() -> None:
        while not stop.is_set():
            record = add(registry, new_id("ds").encode())
            stop.wait(0.005)
            with registry.write() as unit:
                unit.after_commit.unreferenced += unit.datasets.delete(record)

    add(registry, b"stays")
    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for number in range(5):
            backup = tmp_path / f"backup-{number}"
            monkeypatch.setattr(backups, "_MAX_DUMPS", 1 + number % 2)
            assert main(["backup", str(backup), "--data-dir", str(settings.data_dir)]) == 0
            assert "INSERT" in "".join(kept(backup))
            assert open_to_others(backup) == []
    finally:
        stop.set()
        writer.join()


@pytest.fixture
def ready(tmp_path: Path) -> Callable[..., list[object]]:
    """A data folder with its backup; the command that puts it back."""
    with closing(Registry.open(ServiceSettings(data_dir=tmp_path / "data", database_url=None))) as registry:
        registry.migrate()
        add(registry, b"content")
    assert main(["backup", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "data")]) == 0
    return lambda backup="backup": ["restore", tmp_path / backup, "--data-dir", tmp_path / "data"]


@pytest.mark.embedded
def test_what_cannot_be_restored_is_refused_and_changes_nothing(
    ready: Callable[..., list[object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A running service, half of a folder, another release and damaged files are each a sentence with a way out."""
    before = kept(tmp_path / "data")
    with closing(Registry.open(ServiceSettings(data_dir=tmp_path / "data", database_url=None))) as registry:
        registry.check()
        capsys.readouterr()
        assert "(database is locked): stop API and workers" in said(ready(), capsys)
    with locked(tmp_path / "data" / "run"), pytest.raises(SystemExit, match=r"already uses .*: stop it first"):
        fedlas([str(word) for word in ready()])

    (file,) = (tmp_path / "backup" / "artifacts").glob("*/*")
    name = file.relative_to(tmp_path / "backup")

    def spoilt(how: Callable[[Path], object]) -> str:
        shutil.copytree(tmp_path / "backup", tmp_path / "spoilt")
        how(tmp_path / "spoilt")
        sentence = said(ready("spoilt"), capsys)
        shutil.rmtree(tmp_path / "spoilt")
        return sentence

    def newer(folder: Path) -> None:
        manifest = json.loads((folder / "backup.json").read_text())
        (folder / "backup.json").write_text(json.dumps({**manifest, "revision": "0099", "release": "9.9"}))

    assert "has no whole backup.json" in spoilt(lambda folder: (folder / "backup.json").unlink())
    half = spoilt(lambda folder: (folder / name).unlink())
    assert f"1 of 2 files in {tmp_path / 'spoilt'} are missing or cut off, such as {name}: copy the whole" in half
    assert "of release 9.9, whose revision 0099 this one does not know: install that release" in spoilt(newer)
    cut = spoilt(lambda folder: (folder / "registry.sqlite").write_bytes(b"short"))
    assert "such as registry.sqlite" in cut
    shutil.rmtree(tmp_path / "data" / "artifacts" / file.parent.name)
    assert f"{name} is damaged" in spoilt(lambda folder: (folder / name).write_bytes(b"CONTENT"))
    assert fedlas([str(word) for word in ready()]) == 0
    assert kept(tmp_path / "data") == before


@pytest.mark.embedded
def test_what_cannot_be_backed_up_is_a_sentence_and_leaves_nothing(
    ready: Callable[..., list[object]], tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is not empty, a data folder without records, and a disk that is full."""
    data = ["--data-dir", tmp_path / "data"]
    capsys.readouterr()
    assert "backup is not empty: name a new folder" in said(["backup", tmp_path / "backup", *data], capsys)
    nowhere = said(["backup", tmp_path / "new", "--data-dir", tmp_path / "nowhere"], capsys)
    assert "registry.sqlite has no tables" in nowhere
    assert not (tmp_path / "new").exists()
    with closing(Registry.open(ServiceSettings(data_dir=tmp_path / "data", database_url=None))) as registry:
        add(registry, bytes(2 * 1024**2))
    full = said(["backup", small_disk / "backup", *data], capsys)
    assert str(small_disk) in full
    assert list(small_disk.iterdir()) == []


def issue(registry: Registry, name: str) -> str:
    """A key of this name; returns its id."""
    with registry.write() as unit:
        unit.browser_sessions.open(name, "sealed", seconds=60)
        row = tables.ApiKey(id=new_id("key"), name=name, scopes=["predict"], sha256=name * 8, created_at=now())
        return unit.api_keys.add(row).id


def open_keys(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "registry.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM browser_sessions").fetchone() == (0,)
        return {name for (name,) in connection.execute("SELECT name FROM api_keys")}


@pytest.mark.embedded
def test_a_restore_opens_no_key_that_was_revoked_after_the_backup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place says which keys are open, by its database or else its file of keys; an empty place opens all."""
    data, backup = tmp_path / "data", tmp_path / "backup"

    def restored(place: Path, *flags: str) -> str:
        capsys.readouterr()
        assert main(["restore", str(backup), "--data-dir", str(place), *flags]) == 0
        return capsys.readouterr().out

    with closing(Registry.open(ServiceSettings(data_dir=data, database_url=None))) as registry:
        registry.migrate()
        issue(registry, "stays")
        revoked = issue(registry, "revoked")
        assert main(["backup", str(backup), "--data-dir", str(data)]) == 0
        with registry.write() as unit:
            unit.api_keys.revoke(revoked)
        assert "stop API and workers" in said(["restore", backup, "--data-dir", data, "--without-keys"], capsys)
    assert "keys that open: 1\n" in (told := restored(data))
    assert "\nAPI keys that stay closed: 1, which this place had revoked or did not know" in told
    assert open_keys(data) == {"stays"}

    told = restored(tmp_path / "empty")
    assert "keys that open: 2\n" in told
    assert f"{revoked} revoked (predict), created {now():%Y-%m-%d}, last used: not recorded\n" in told
    assert open_keys(tmp_path / "empty") == {"stays", "revoked"}
    assert "API keys that stay closed: 2 (--without-keys): `fedlas keys create`" in restored(
        tmp_path / "none", "--without-keys"
    )
    assert open_keys(tmp_path / "none") == set()

    keys = tmp_path / "gone" / "run" / "api-1" / "served" / "keys" / "keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text(json.dumps({"stays" * 8: {}}))
    restored(tmp_path / "gone")
    assert open_keys(tmp_path / "gone") == {"stays"}
    (tmp_path / "gone" / "registry.sqlite").unlink()
    restored(tmp_path / "gone")
    assert open_keys(tmp_path / "gone") == set()  # a service was started there, and it is not known with which keys
    assert not keys.exists()


@pytest.mark.embedded
def test_where_nothing_tells_which_keys_were_open_all_stay_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged database is no empty place, and a file of keys that is cut off opens none."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    with closing(Registry.open(ServiceSettings(data_dir=data, database_url=None))) as registry:
        registry.migrate()
        issue(registry, "stays")
        assert main(["backup", str(backup), "--data-dir", str(data)]) == 0
    keys = data / "run" / "served" / "keys" / "keys.json"
    keys.parent.mkdir(parents=True)
    keys.write_text('{"sta')
    (data / "registry.sqlite").write_bytes(b"no database at all" * 500)
    assert "move it away if it is damaged" in said(["restore", backup, "--data-dir", data], capsys)
    (data / "registry.sqlite").unlink()
    assert main(["restore", str(backup), "--data-dir", str(data)]) == 0
    assert open_keys(data) == set()
