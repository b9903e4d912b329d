"""The served folder under faults: old answers go on, nothing wrong is answered, and what is missing comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from service.predict.served_folder import NotHere, ServedFolder
from service.registry import tables
from service.registry.errors import Conflict, NotFound, Unavailable
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from service.registry.tables import new_id, now
from service.repeated import repeat
from service.served import folder as module
from service.served.writer import ServedWriter
from tests.helpers.publishing import publish
from tests.helpers.served import scaling


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    with closing(Registry.open(ServiceSettings(data_dir=tmp_path / "data"))) as made:
        made.migrate()
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The served folder."""
    return tmp_path / "served"


def followed(registry: Registry, root: Path) -> ServedWriter:
    """A control process that has begun, and follows its own commits."""
    writer = ServedWriter(registry, root)
    registry.on_served = writer.follow
    writer.follow()
    return writer


def meant(root: Path, called: str) -> str:
    """The id of the model that a process finds that has just begun."""
    return ServedFolder(root).look_up(called).model_id


def test_nothing_is_answered_before_all_names_are_there(registry: Registry, root: Path) -> None:
    """A process that begins before control says that it starts, and not that there is no such model."""
    publish(registry, "digits", scaling(1))
    ServedWriter(registry, root)
    with pytest.raises(Unavailable, match="the service is starting"):
        ServedFolder(root).look_up("digits")
    followed(registry, root)
    with pytest.raises(NotHere):
        ServedFolder(root).look_up("digits")
    with pytest.raises(NotFound):
        ServedFolder(root).look_up("nobody")


def test_control_killed_while_it_writes(registry: Registry, root: Path) -> None:
    """The next one takes away what is not whole or not true any more, and writes what is missing."""
    first = publish(registry, "digits", scaling(1))
    followed(registry, root).give(first)
    registry.on_served = lambda: None  # killed; a worker goes on
    second = publish(registry, "digits", scaling(2))
    publish(registry, "new", scaling(3))
    (root / "names" / "00").mkdir(exist_ok=True)
    (root / "names" / "00" / "old.json").write_text("{}")
    (root / "models" / "half.new").mkdir()
    (root / "models" / new_id("mdl")).mkdir()
    assert meant(root, "digits") == first
    writer = followed(registry, root)
    writer.give(second)
    assert meant(root, "digits") == second
    assert {path.stem for path in root.glob("names/*/*")} == {"digits", "new"}
    assert {path.name for path in root.glob("models/*")} == {first, second}


def test_a_restored_backup(registry: Registry, root: Path) -> None:
    """Where the registry is older than what was followed, everything is written anew."""
    publish(registry, "digits", scaling(1))
    publish(registry, "digits", scaling(2))
    followed(registry, root)
    with registry.write() as unit:  # as in the database of the backup
        unit.names.delete("digits")
        unit.session.flush()
        unit.session.query(tables.ServedChange).delete()
        unit.served_changes.add("another")
    with pytest.raises(NotFound):
        meant(root, "digits")


def test_a_full_disk_is_told_and_the_old_version_answers(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is committed and refused with 503, and answers as soon as there is room; deletions need none."""
    models = [publish(registry, "digits", scaling(factor)) for factor in (1, 2)]
    publish(registry, "gone", scaling(3))
    writer = followed(registry, root)
    for model in models:
        writer.give(model)

    def full(fresh: Path, place: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(module.os, "replace", full)
        with pytest.raises(Unavailable, match="cannot be written"), registry.write() as unit:
            unit.names.switch("digits", 1)
        with pytest.raises(Unavailable), registry.write() as unit:
            unit.names.delete("gone")
        with pytest.raises(NotFound):
            meant(root, "gone")
    assert meant(root, "digits") == models[1]
    writer.follow()
    assert meant(root, "digits") == models[0]
    assert not list(root.rglob("*.new"))


def test_a_copy_that_was_removed_comes_back(registry: Registry, root: Path) -> None:
    """Whoever asks for it has it put there again; one whose stored file is lost is refused with what is missing."""
    model = publish(registry, "digits", scaling(1))
    writer = followed(registry, root)
    writer.give(model)
    reader = ServedFolder(root)
    digest = reader.look_up("digits").digest
    shutil.rmtree(root / "models" / model)
    with pytest.raises(NotFound), reader.file(digest):
        pass
    writer.give(model)
    with reader.file(digest) as path:
        assert path.stat().st_nlink == 2  # with the stored file
    shutil.rmtree(root / "models" / model)
    registry.artifacts.remove([digest])
    writer.give(model)
    with pytest.raises(Unavailable) as refused:
        ServedFolder(root).look_up(model)
    assert refused.value.code == "artifact_missing"


def test_repeated_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """One failure, of whatever kind, is logged; the next time the work is done."""
    done: list[int] = []

    async def work() -> None:
        done.append(1)
        if len(done) == 1:
            raise MemoryError

    async def some_times() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(repeat(0.01, work), 0.3)

    asyncio.run(some_times())
    assert len(done) > 2
    assert caplog.text.count("repeated work has failed") == 1


def test_half_a_file_is_answered_503(registry: Registry, root: Path) -> None:
    """A file that somebody has cut off says nothing; it is written anew with a change of its name, or after a while."""
    model = publish(registry, "digits", scaling(1))
    writer = followed(registry, root)
    writer.give(model)
    (file,) = root.glob("names/*/digits.json")
    file.write_text(file.read_text()[:20])
    with pytest.raises(Unavailable, match="cannot be read"):
        meant(root, "digits")
    with registry.write() as unit:
        unit.names.switch("digits", 1)
    assert meant(root, "digits") == model
    file.unlink()
    writer.rewrite()
    assert meant(root, "digits") == model


@pytest.mark.parametrize("called", ["../models", "a/b", ".", "", "a" * 300, "mdl_", "mdl_../../keys", "é", "a\0b"])
def test_no_name_leads_elsewhere(registry: Registry, root: Path, called: str) -> None:
    """A text that cannot be a name or id is unknown, and no file is looked for."""
    followed(registry, root)
    with pytest.raises(NotFound):
        ServedFolder(root).look_up(called)


def test_what_was_refused_may_come(registry: Registry, root: Path) -> None:
    """A model that is being inspected is refused for so long, and a made-up id takes no room for long."""
    writer, reader = followed(registry, root), ServedFolder(root)
    row = tables.Model(
        id=new_id("mdl"), name="a", version=1, status="inspecting", origin="uploaded", bytes=1, sha256="0" * 64,
        options={}, calibrated=False, created_at=now(),
    )  # fmt: skip
    with registry.write() as unit:
        unit.models.add(row)
    writer.give(row.id)
    with pytest.raises(Conflict, match="is inspecting") as refused:
        reader.look_up(row.id)
    assert refused.value.passing
    with registry.write() as unit:
        unit.models.reject(row.id, {"code": "a", "message": "b"})
    with pytest.raises(NotHere):
        reader.look_up(row.id)
    for _ in range(1100):
        writer.give(new_id("mdl"))
    assert len(list((root / "refused").iterdir())) == 1000
