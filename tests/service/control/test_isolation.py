"""Models whose runs ended a process run in processes of their own; control decides which and where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.control import isolation
from service.control.isolation import Isolation
from service.inference.quarantine import Quarantine
from service.ipc.documents import Fault
from service.registry.errors import OutOfService

BAD, WORSE, WORST, GOOD = "ba" * 32, "ad" * 32, "dd" * 32, "60" * 32


@pytest.fixture
def isolated(tmp_path: Path) -> Callable[..., Isolation]:
    """Makes the state of control as it finds it at its start."""

    def made(most: int = 2) -> Isolation:
        return Isolation(tmp_path / "ended", Quarantine(tmp_path / "suspended"), most=most)

    return made


def refused(found: Isolation, digest: str, process: str, called: str = "spam", version: str | None = None) -> str:
    """The code with which a process is refused a model."""
    with pytest.raises(OutOfService) as failure:
        found.admit(called, version, digest, process)
    return failure.value.code


def test_an_ended_model_moves_with_all_its_names(isolated: Callable[..., Isolation]) -> None:
    """Names, ids and versions that mean it lead to its process, those that are learned later too; others stay."""
    found, changes = isolated(), []
    found.on_change = lambda: changes.append((found.places(), found.processes))
    found.admit("spam", None, BAD, "serving-1")
    found.admit("spam", "2", GOOD, "serving-1")
    assert changes == []
    found.fault(Fault(how="SIGFPE", models=[BAD], certain=True), "serving-1")
    assert changes == [({"spam": "alone-1"}, {"alone-1"})]
    assert refused(found, BAD, "serving-1", "mdl_1") == refused(found, BAD, "serving-2", "spam", "1") == "unavailable"
    assert found.places() == {"spam": "alone-1", "mdl_1": "alone-1", "spam/versions/1": "alone-1"}
    found.admit("spam", None, BAD, "alone-1")
    found.admit("spam", None, GOOD, "alone-1")  # another version was published
    assert changes[-1] == ({"mdl_1": "alone-1", "spam/versions/1": "alone-1"}, {"alone-1"})
    found.ended(BAD, "serving-2")  # which ran it at the same time
    assert (found.processes, refused(found, BAD, "serving-2")) == ({"alone-1"}, "unavailable")


def test_what_ends_its_own_process_is_out_of_service(
    isolated: Callable[..., Isolation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that ends its process is refused everywhere, and runs alone again when its time is over."""
    found = isolated()
    found.ended(BAD, "serving-1")
    found.ended(BAD, "alone-1")
    assert found.processes == frozenset()
    assert refused(found, BAD, "serving-1") == refused(found, BAD, "alone-1") == "model_suspended"
    os.utime(tmp_path / "suspended" / BAD, (0, 0))
    assert refused(found, BAD, "serving-1") == "unavailable"
    found.admit("spam", None, BAD, "alone-1")


def test_a_model_that_no_process_is_free_for_is_out_of_service(
    isolated: Callable[..., Isolation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model waits until another was not asked for during a minute; one without requests leaves after ten."""
    found = isolated()
    for digest in (BAD, WORSE, WORST):
        found.ended(digest, "serving-1")
    assert found.processes == {"alone-1", "alone-2"}
    assert refused(found, WORST, "serving-1") == "model_suspended"
    monkeypatch.setattr(isolation, "_GIVES_WAY_S", 0.0)
    assert refused(found, WORST, "serving-1") == "unavailable"
    found.admit("spam", None, WORST, "alone-1")
    found.release()
    assert found.processes == {"alone-1", "alone-2"}
    monkeypatch.setattr(isolation, "_IDLE_S", 0.0)
    found.release()
    assert found.processes == frozenset()


def test_another_control_knows_who_was_ended(isolated: Callable[..., Isolation]) -> None:
    """Another control leaves a model to the process that has it; no other process runs it."""
    isolated().ended(BAD, "serving-1")
    found = isolated()
    assert found.processes == frozenset()
    found.admit("spam", None, BAD, "alone-2")
    assert found.places() == {"spam": "alone-2"}
    assert refused(found, BAD, "serving-1") == "unavailable"
    found = isolated()
    found.ended(BAD, "alone-2")  # before this control was asked for it
    assert refused(found, BAD, "alone-2") == "model_suspended"


def test_without_processes_for_them_models_are_only_suspended(isolated: Callable[..., Isolation]) -> None:
    """Models are suspended as in one process; what was ended before may run with others again."""
    isolated().ended(BAD, "serving-1")
    found = isolated(most=0)
    found.admit("spam", None, BAD, "serving-1")
    found.ended(BAD, "serving-1")
    assert (found.processes, refused(found, BAD, "serving-1")) == (frozenset(), "model_suspended")


def hung(found: Isolation, process: str, *models: str) -> None:
    """A process has ended, and it is not sure whether by one of these."""
    found.fault(Fault(how="the watchdog of its event loop", models=list(models), certain=False), process)


def test_a_suspect_goes_on_until_it_is_suspect_again(isolated: Callable[..., Isolation], tmp_path: Path) -> None:
    """A suspect runs alone where a process is free, and is never out of service; another control ignores it."""
    found = isolated()
    hung(found, "serving-1", BAD, WORSE, WORST)
    for model in (BAD, WORSE, WORST):
        found.admit("spam", None, model, "serving-1")
    hung(found, "serving-1", BAD, WORSE, WORST, GOOD)
    assert found.processes == {"alone-1", "alone-2"}
    assert refused(found, BAD, "serving-1") == refused(found, WORSE, "serving-1") == "unavailable"
    for model in (WORST, GOOD):
        found.admit("spam", None, model, "serving-1")
    isolated().admit("spam", None, BAD, "serving-1")
    found.ended(GOOD, "serving-1")  # whose process it needs
    found.admit("spam", None, BAD, "serving-1")
    assert refused(found, GOOD, "serving-1") == refused(found, WORSE, "serving-1") == "unavailable"
    assert [file.name for file in (tmp_path / "ended").iterdir()] == [GOOD]


def test_a_suspect_comes_back_or_is_out_of_service(
    isolated: Callable[..., Isolation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has done no harm alone runs with others again; one that ends that process, too, has ended one."""
    found = isolated()
    for _ in range(2):
        hung(found, "serving-1", BAD, WORSE)
    hung(found, "alone-1", BAD)
    assert refused(found, BAD, "alone-1") == "model_suspended"
    found.release()
    assert found.processes == {"alone-2"}
    monkeypatch.setattr(isolation, "_SUSPECTED_S", -1.0)
    found.release()
    assert found.processes == {"alone-2"}
    hung(found, "serving-1", GOOD)
    hung(found, "serving-1", GOOD)
    found.release()
    assert found.processes == {"alone-2"}
    found.admit("spam", None, GOOD, "serving-1")


def test_suspects_of_long_ago_are_none(isolated: Callable[..., Isolation], monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspect among several without a process of its own is none, either; the only one is out of service."""
    monkeypatch.setattr(isolation, "_AGAIN_S", 0.0)
    found = isolated()
    for _ in range(2):
        hung(found, "serving-1", BAD)
    assert found.processes == frozenset()
    monkeypatch.undo()
    found = isolated(most=0)
    for _ in range(2):
        hung(found, "serving-1", WORSE, WORST)
    found.admit("spam", None, WORSE, "serving-1")
    hung(found, "serving-1", WORSE)
    assert refused(found, WORSE, "serving-1") == "model_suspended"
