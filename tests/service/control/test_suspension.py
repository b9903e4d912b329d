"""Models whose runs end processes are suspended, for a while and not before the second time."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.control import suspension as module
from service.control.suspension import Suspension
from service.ipc.documents import Fault
from service.predict.engine.quarantine import Quarantine
from service.registry.errors import OutOfService

BAD, GOOD = "ba" * 32, "60" * 32


@pytest.fixture
def suspension(tmp_path: Path) -> Suspension:
    """The state of control at its start."""
    return Suspension(Quarantine(tmp_path), lambda digest: "spam")


def is_suspended(suspension: Suspension, digest: str = BAD) -> bool:
    """True while a process is refused the model."""
    try:
        suspension._quarantine.check(digest)
    except OutOfService as error:
        return error.code == "model_suspended"
    return False


@pytest.mark.parametrize("fault", [Fault(how="SIGFPE", models=[BAD], certain=True), None])
def test_the_second_end_within_ten_minutes_suspends(suspension: Suspension, fault: Fault | None) -> None:
    """A crash, or a run without end; every name of the model, and no other model."""
    for _ in range(2):
        assert not is_suspended(suspension)
        if fault is None:
            suspension.ended(BAD, "serving-1")
        else:
            suspension.fault(fault, "serving-1")
    assert is_suspended(suspension)
    assert not is_suspended(suspension, GOOD)


def test_an_end_is_forgotten_after_ten_minutes(suspension: Suspension, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ends further apart suspend nothing; the second and a third one within that time do."""
    clock = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for seconds, expected in ((0, False), (601, False), (599, True)):
        clock[0] += seconds
        suspension.ended(BAD, "serving-1")
        assert is_suspended(suspension) == expected


def test_suspects_have_a_third_time(suspension: Suspension) -> None:
    """Where several ran, and none is known to have done it, two times may be chance, and three are not."""
    for _ in range(2):
        suspension.fault(Fault(how="SIGKILL", models=[BAD, GOOD], certain=False), "serving-1")
    assert (is_suspended(suspension), is_suspended(suspension, GOOD)) == (False, False)
    suspension.fault(Fault(how="SIGKILL", models=[BAD, GOOD], certain=False), "serving-1")
    assert (is_suspended(suspension), is_suspended(suspension, GOOD)) == (True, True)


def test_a_sole_suspect_did_it(suspension: Suspension) -> None:
    """Where one model alone ran when memory ran out, the second time suspends it."""
    for expected in (False, True):
        suspension.fault(Fault(how="SIGKILL", models=[BAD], certain=False), "serving-1")
        assert is_suspended(suspension) == expected


def test_it_ends_by_its_time_and_by_hand(suspension: Suspension, tmp_path: Path) -> None:
    """After ten minutes the model runs again; so it does once it is lifted, until it ends a process once more."""
    for _ in range(2):
        suspension.ended(BAD, "serving-1")
    os.utime(tmp_path / BAD, (0, 0))
    assert not is_suspended(suspension)
    suspension.ended(BAD, "serving-1")
    assert is_suspended(suspension)
    Quarantine(tmp_path).lift(BAD)
    assert not is_suspended(suspension)
