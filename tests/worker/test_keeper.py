"""Checkpoints on their way from a child's folder into the registry: in order, fenced, and plain files only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.registry.ids import new_id
from service.registry.repositories import Claim
from service.registry.unit_of_work import Registry
from worker.keeper import FOLDER, Keeper


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
                unit.work.lose(claimed, "signal 9")
                unit.work.of(record_id).not_before = unit.now()
    assert claimed is not None
    return claimed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A child's folder, with its journal."""
    (tmp_path / "child" / FOLDER).mkdir(parents=True)
    return tmp_path / "child"


@pytest.fixture
def keeper(registry: Registry, claim: Claim, folder: Path) -> Iterator[Keeper]:
    """A keeper at work."""
    with Keeper(registry, claim, folder) as running:
        yield running


def save(keeper: Keeper, folder: Path, name: str, file: str, content: bytes) -> None:
    """What a child does."""
    (folder / FOLDER / file).write_bytes(content)
    keeper.note({"name": name, "file": file})


def kept(registry: Registry, claim: Claim) -> dict[str, bytes]:
    """What the registry would give to the next attempt."""
    with registry.read() as unit:
        entries = unit.checkpoints.of(claim.record_id)
    return {name: registry.artifacts.path(digest).read_bytes() for name, digest in entries.items()}


def losses(registry: Registry, claim: Claim) -> int:
    """How many losses in a row are remembered."""
    with registry.read() as unit:
        return len(unit.work.of(claim.record_id).losses)


def test_newer_entries_replace_older_ones(registry: Registry, claim: Claim, keeper: Keeper, folder: Path) -> None:
    """Of each name the newest is kept, and neither the child's file nor the older artifact is left."""
    save(keeper, folder, "running", "running-1.pt", b"one")
    keeper.drain(10)
    with registry.read() as unit:
        first = unit.checkpoints.of(claim.record_id)["running"]
    save(keeper, folder, "candidate-01", "candidate-01.pt", b"done")
    save(keeper, folder, "running", "running-2.pt", b"two")
    keeper.drain(10)
    assert kept(registry, claim) == {"running": b"two", "candidate-01": b"done"}
    assert list((folder / FOLDER).iterdir()) == []
    assert not registry.artifacts.place(first).exists()


def test_getting_further_forgives_and_repeating_does_not(
    registry: Registry, claim: Claim, keeper: Keeper, folder: Path
) -> None:
    """An entry of a new name, or an epoch, forgives earlier losses; the same name again is no progress."""
    with registry.write() as unit:
        unit.checkpoints.save(claim.record_id, "decisions", "0" * 64)
    save(keeper, folder, "decisions", "d.json", b"again")
    keeper.drain(10)
    assert losses(registry, claim) == 2
    save(keeper, folder, "running", "r.pt", b"an epoch")
    keeper.drain(10)
    assert losses(registry, claim) == 0


def test_who_lost_the_lease_keeps_nothing(registry: Registry, claim: Claim, folder: Path) -> None:
    """A checkpoint of a claim that somebody else has taken over is not written, and the newer one stays."""
    with registry.write() as unit:
        unit.work.release_held_by(["w"], "its worker died")
        unit.work.of(claim.record_id).not_before = unit.now()
        newer = unit.work.claim(claim.record_id, worker="v", lease_seconds=60)
    assert newer is not None
    with Keeper(registry, newer, folder) as theirs:
        save(theirs, folder, "running", "new.pt", b"newer")
        theirs.drain(10)
    with Keeper(registry, claim, folder) as ours:
        save(ours, folder, "running", "old.pt", b"older")
        ours.drain(10)
    assert kept(registry, claim) == {"running": b"newer"}


@pytest.mark.parametrize("trick", ["link", "second name", "pipe", "folder", "journal is a link"])
def test_only_plain_files_are_taken(registry: Registry, claim: Claim, folder: Path, tmp_path: Path, trick: str) -> None:
    """A hostile child cannot have its supervisor copy somebody else's file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    place = folder / FOLDER / "x.pt"
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
        (folder / FOLDER).rmdir()
        (folder / FOLDER).symlink_to(tmp_path)
    with Keeper(registry, claim, folder) as keeper:
        keeper.note({"name": "running", "file": "x.pt"})
        keeper.drain(10)
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
def test_nonsense_is_passed_over(registry: Registry, claim: Claim, keeper: Keeper, folder: Path, entry: object) -> None:
    """What is no entry changes nothing, and the keeper goes on."""
    keeper.note(entry)
    save(keeper, folder, "running", "x.pt", b"fine")
    keeper.drain(10)
    assert kept(registry, claim) == {"running": b"fine"}


def test_checkpoints_go_with_their_job(registry: Registry, claim: Claim, keeper: Keeper, folder: Path) -> None:
    """When the job ends its entries and their files are gone; what something else names stays."""
    save(keeper, folder, "running", "x.pt", b"state")
    keeper.drain(10)
    (path,) = [path for path in registry.artifacts.root.rglob("*") if path.is_file()]
    with registry.write() as unit:
        unit.jobs.unnamed += unit.checkpoints.drop(claim.record_id)
    assert not path.exists()
    assert kept(registry, claim) == {}
