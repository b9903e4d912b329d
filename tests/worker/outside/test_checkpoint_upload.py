"""Checkpoints on their way from a child's folder into the registry: in order, fenced, and plain files only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.settings import WorkerSettings
from service.registry.tables import new_id
from tests.helpers.service import until
from worker.documents import Reply, SavedCheckpoint
from worker.outside.checkpoint_upload import CheckpointUploader
from worker.outside.kinds import kind_of
from worker.sandbox.protocol import Replies

CANDIDATE = {"name": "one", "method": "fedlas", "scope": "all", "status": "finished"}
CANDIDATE |= {"reason": "", "calibration": None, "seconds": 0.5}


@pytest.fixture
def claim(registry: Registry) -> Claim:
    """Work that was lost twice and is held now."""
    record_id = new_id("job")
    with registry.write() as unit:
        unit.work.open(record_id)
    for _ in range(3):
        with registry.write() as unit:
            claimed = unit.work.claim(record_id, worker="w", lease_seconds=60)
            assert claimed is not None
            if claimed.attempts < 3:
                unit.work.retry(claimed, "signal 9")
                unit.work.of(record_id).not_before = unit.now()
    assert claimed is not None
    return claimed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A child's folder, with its journal."""
    (tmp_path / "child" / "journal").mkdir(parents=True)
    return tmp_path / "child"


def uploading(registry: Registry, claim: Claim, folder: Path, *, most_bytes: int = 1000) -> CheckpointUploader:
    """An uploader of this claim, whose child has got to the middle."""
    settings = WorkerSettings(data_dir=folder, database_url=None, broker_url=None, artifacts=None)
    work = kind_of(claim)(registry, settings, claim)
    work.note({"progress": {"fraction": 0.5}})
    return CheckpointUploader(registry, work, folder, Replies(), most_bytes=most_bytes)


@pytest.fixture
def uploader(registry: Registry, claim: Claim, folder: Path) -> Iterator[CheckpointUploader]:
    """An uploader at work."""
    with uploading(registry, claim, folder) as running:
        yield running


def save(uploader: CheckpointUploader, folder: Path, name: str, file: str, content: bytes) -> None:
    """Save an entry as a child does."""
    (folder / "journal" / file).write_bytes(content)
    uploader.submit(SavedCheckpoint(name=name, file=file))


def kept(registry: Registry, claim: Claim) -> dict[str, bytes]:
    """The entries that the registry would give to the next attempt."""
    with registry.read() as unit:
        entries = unit.checkpoints.of(claim.record_id)
    return {name: registry.artifacts.path(digest).read_bytes() for name, digest in entries.items()}


def losses(registry: Registry, claim: Claim) -> int:
    """How many losses in a row are remembered."""
    with registry.read() as unit:
        return len(unit.work.of(claim.record_id).losses)


def test_newer_entries_replace_older_ones(
    registry: Registry, claim: Claim, uploader: CheckpointUploader, folder: Path
) -> None:
    """The newest entry of each name is kept, and neither the child's file nor the older artifact is left."""
    save(uploader, folder, "running", "running-1.pt", b"one")
    uploader.drain(10)
    with registry.read() as unit:
        first = unit.checkpoints.of(claim.record_id)["running"]
    save(uploader, folder, "candidate-01", "candidate-01.pt", b"done")
    save(uploader, folder, "running", "running-2.pt", b"two")
    uploader.drain(10)
    assert kept(registry, claim) == {"running": b"two", "candidate-01": b"done"}
    assert list((folder / "journal").iterdir()) == []
    assert not registry.artifacts.place(first).exists()


def test_getting_further_forgives_and_repeating_does_not(registry: Registry, claim: Claim, folder: Path) -> None:
    """A checkpoint where no attempt has ever been forgives earlier losses; one where it had been before does not."""
    with registry.write() as unit:
        unit.work.of(claim.record_id).reached = 0.5
    with uploading(registry, claim, folder) as uploader:
        save(uploader, folder, "running", "r.pt", b"again")
        uploader.drain(10)
        assert losses(registry, claim) == 2
        uploader._work.note({"progress": {"fraction": 0.6}})
        save(uploader, folder, "running", "s.pt", b"further")
        uploader.drain(10)
    assert losses(registry, claim) == 0


def test_what_cannot_be_kept_now_is_kept_later(
    registry: Registry, claim: Claim, uploader: CheckpointUploader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the storage takes nothing entries wait, in their order; the child does not save them again."""

    def refuse(*_: object, **__: object) -> None:
        raise Unavailable("storage_unavailable", "full")

    with monkeypatch.context() as full:
        full.setattr(registry.artifacts, "stage_open", refuse)
        save(uploader, folder, "candidate-01", "c.pt", b"done")
        save(uploader, folder, "running", "r.pt", b"state")
        time.sleep(0.5)
        assert kept(registry, claim) == {}
    uploader.drain(10)
    assert kept(registry, claim) == {"candidate-01": b"done", "running": b"state"}


def test_thousands_of_states_are_passed_over(registry: Registry, claim: Claim, folder: Path) -> None:
    """Where states come faster than they are kept only the newest is, and the files of the others go."""
    with uploading(registry, claim, folder) as uploader:
        with uploader._changed:  # it cannot begin
            for number in range(3000):
                (folder / "journal" / f"r{number}.pt").write_bytes(b"%d" % number)
                uploader._waiting.append(("running", f"r{number}.pt"))
            uploader._changed.notify_all()
        uploader.drain(30)
    assert kept(registry, claim) == {"running": b"2999"}
    assert list((folder / "journal").iterdir()) == []


def test_what_is_passed_over_is_removed_from_the_childs_folder_only(
    registry: Registry, claim: Claim, folder: Path, tmp_path: Path
) -> None:
    """A journal that is a link leads no removal elsewhere."""
    (tmp_path / "x.pt").write_bytes(b"of somebody else")
    (folder / "journal").rmdir()
    (folder / "journal").symlink_to(tmp_path)
    with uploading(registry, claim, folder) as uploader:
        with uploader._changed:
            uploader._waiting.extend([("running", "x.pt"), ("running", "x.pt")])
            uploader._changed.notify_all()
        uploader.drain(10)
    assert (tmp_path / "x.pt").read_bytes() == b"of somebody else"


def test_what_is_too_large_is_not_kept(registry: Registry, claim: Claim, folder: Path) -> None:
    """A sparse file costs its child nothing; it would cost the storage."""
    with uploading(registry, claim, folder, most_bytes=100) as uploader:
        save(uploader, folder, "running", "x.pt", bytes(101))
        uploader.drain(10)
        assert kept(registry, claim) == {}
        save(uploader, folder, "running", "y.pt", bytes(100))
        uploader.drain(10)
    assert kept(registry, claim) == {"running": bytes(100)}


def test_candidates_are_told_once(registry: Registry, claim: Claim, uploader: CheckpointUploader, folder: Path) -> None:
    """Events before a save are written with the entry, also where the first try fails, and only once."""
    uploader._work.note({"event": {"type": "candidate", "data": CANDIDATE}})
    with pytest.raises(RuntimeError), registry.write() as unit:
        uploader._work.write_events(unit)
        raise RuntimeError
    for number in range(2):
        save(uploader, folder, "decisions", f"d{number}.pt", b"d")
        uploader.drain(10)
    with registry.read() as unit:
        told = [(event.type, event.data) for event in unit.events.after(claim.record_id, 0, limit=10)]
    assert told == [("candidate", CANDIDATE)]


def test_an_open_transaction_keeps_no_other_waiting(registry: Registry, claim: Claim, folder: Path) -> None:
    """An open transaction with candidates' events blocks no thread; if it fails, they are written later."""
    work = uploading(registry, claim, folder)._work
    work.note({"event": {"type": "candidate", "data": CANDIDATE}})

    def tell_also() -> None:
        with registry.read() as unit:
            work.write_events(unit)

    other = threading.Thread(target=tell_also, daemon=True)
    with pytest.raises(RuntimeError), registry.write() as unit:
        work.write_events(unit)
        other.start()
        other.join(10)
        assert not other.is_alive()
        raise RuntimeError
    with registry.write() as unit:
        work.write_events(unit)
    with registry.read() as unit:
        told = [event.data for event in unit.events.after(claim.record_id, 0, limit=10)]
    assert told == [CANDIDATE]


def test_who_lost_the_lease_keeps_nothing(registry: Registry, claim: Claim, folder: Path) -> None:
    """A checkpoint of a claim that somebody else has taken over is not written, and the newer one stays."""
    with registry.write() as unit:
        unit.work.release_held_by(["w"], "its worker died")
        unit.work.of(claim.record_id).not_before = unit.now()
        newer = unit.work.claim(claim.record_id, worker="v", lease_seconds=60)
    assert newer is not None
    with uploading(registry, newer, folder) as theirs:
        save(theirs, folder, "running", "new.pt", b"newer")
        theirs.drain(10)
    with uploading(registry, claim, folder) as ours:
        save(ours, folder, "running", "old.pt", b"older")
        ours.drain(10)
    assert kept(registry, claim) == {"running": b"newer"}


@pytest.mark.parametrize("trick", ["link", "second name", "pipe", "folder", "journal is a link"])
def test_only_plain_files_are_taken(registry: Registry, claim: Claim, folder: Path, tmp_path: Path, trick: str) -> None:
    """A hostile child cannot have its supervisor copy somebody else's file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    place = folder / "journal" / "x.pt"
    if trick == "link":
        place.symlink_to(secret)
    elif trick == "second name":
        os.link(secret, place)
    elif trick == "pipe":
        os.mkfifo(place)
    elif trick == "folder":
        place.mkdir()
    else:
        (tmp_path / "x.pt").write_bytes(b"secret")
        (folder / "journal").rmdir()
        (folder / "journal").symlink_to(tmp_path)
    with uploading(registry, claim, folder) as uploader:
        uploader.submit(SavedCheckpoint(name="running", file="x.pt"))
        uploader.drain(10)
    assert kept(registry, claim) == {}
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "x.pt",
        {},
        {"name": "running"},
        {"name": "running", "file": "../secret"},
        {"name": "running", "file": "a/b"},
        {"name": "running", "file": ".."},
        {"name": "running", "file": 7},
        {"name": "Running!", "file": "x.pt"},
        {"name": "a" * 65, "file": "x.pt"},
        {"name": ["running"], "file": "x.pt"},
    ],
    ids=str,
)
def test_nonsense_is_passed_over(
    registry: Registry, claim: Claim, uploader: CheckpointUploader, folder: Path, entry: object
) -> None:
    """Lines that are no entry change nothing, and the uploader goes on."""
    uploader._work.keep = uploader.submit
    uploader._work.note({"checkpoint": entry})
    save(uploader, folder, "running", "x.pt", b"fine")
    uploader.drain(10)
    assert kept(registry, claim) == {"running": b"fine"}


def test_checkpoints_go_with_their_job(
    registry: Registry, claim: Claim, uploader: CheckpointUploader, folder: Path
) -> None:
    """When the job ends its entries and their files are gone; what something else names stays."""
    save(uploader, folder, "running", "x.pt", b"state")
    uploader.drain(10)
    (path,) = [path for path in registry.artifacts.root.rglob("*") if path.is_file()]
    with registry.write() as unit:
        unit.after_commit.unreferenced += unit.checkpoints.drop(claim.record_id)
    assert not path.exists()
    assert kept(registry, claim) == {}


def test_every_ask_has_its_reply(registry: Registry, folder: Path) -> None:
    """However soon the child asks again: in the moment in which it has its reply."""
    work: Any = SimpleNamespace(record_id="shd_1", reply=Reply)
    sent: list[Reply] = []

    def send(reply: Reply) -> None:
        sent.append(reply)
        if len(sent) < 100:
            running.ask()

    replies: Any = SimpleNamespace(send=send)
    with CheckpointUploader(registry, work, folder, replies, most_bytes=1) as running:
        running.ask()
        until(lambda: len(sent) == 100, what="every ask is answered")
        running.check()


def test_an_ask_waits_for_the_registry_and_tells_a_defect(registry: Registry, folder: Path) -> None:
    """A registry that is away is asked again; what nobody expected is raised by whoever watches the child."""
    errors = [Unavailable("database_unavailable", "it is away"), KeyError("defect")]

    def reply() -> Reply:
        raise errors.pop(0)

    work: Any = SimpleNamespace(record_id="shd_1", claim="shd_1", reply=reply)
    with CheckpointUploader(registry, work, folder, Replies(), most_bytes=1) as running:
        running.ask()
        until(lambda: not errors, what="it has asked twice")
        with pytest.raises(KeyError):
            until(lambda: running.check(), what="the defect is told")
