"""Cards without one: `nvidia-smi` is a script that prints documented output, since no machine of the tests has a GPU.

All else is real: the environment is read as a worker reads it, locks are the kernel's, and holders are processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.service import ROOT
from worker.outside import cards
from worker.outside.cards import Card, Cards, NoFreeCard, obstacle, visible_cards

FIRST, SECOND = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"
SLICES = ["MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d"]
#: https://docs.nvidia.com/datacenter/tesla/mig-user-guide/: `nvidia-smi -L`, and sizes of an A100 of 40 GB.
LISTED = f"""GPU 0: NVIDIA A100-SXM4-40GB (UUID: {FIRST})
  MIG 1c.3g.20gb  Device  0: (UUID: {SLICES[0]})
  MIG 1g.5gb      Device  1: (UUID: {SLICES[1]})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: {SECOND})
"""
MEMORY = f"{FIRST}, 40960\n{SECOND}, 40960\n"
SMALL = Card(SLICES[1], "1g.5gb", 5 * 10**9, FIRST)
WHOLE = Card(SECOND, "NVIDIA A100-SXM4-40GB", 40 * 1024**3, SECOND)

Smi = Callable[..., None]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    """Puts an `nvidia-smi` first in the path, which prints this."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def prints(listed: str, memory: str = MEMORY, *, then: str = "") -> None:
        script = folder / "nvidia-smi"
        script.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then echo "{listed}"; else echo "{memory}"; fi\n{then}\n')
        script.chmod(0o700)

    prints(LISTED)
    return prints


def test_a_gpu_is_a_card_and_a_cut_one_is_its_slices(smi: Smi) -> None:
    """A slice has the memory that its profile names, a GPU what the driver says; what it cannot say is unknown."""
    assert visible_cards() == [Card(SLICES[0], "1c.3g.20gb", 20 * 10**9, FIRST), SMALL, WHOLE]
    smi(f"GPU 0: NVIDIA GB10 (UUID: {FIRST})", f"{FIRST}, [N/A]")
    assert visible_cards() == [Card(FIRST, "NVIDIA GB10", 0, FIRST)]
    smi(f"GPU 0: A100-SXM4-40GB (UUID: {FIRST})\n  MIG 3g.20gb Device 0: (UUID: MIG-{FIRST}/1/0)")
    assert [card.uuid for card in visible_cards()] == [f"MIG-{FIRST}/1/0"], "as drivers before 470 name it"
    smi("Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.", then="exit 15")
    assert visible_cards() == []


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (SECOND, [SECOND]),
        ("GPU-5c", [SECOND]),
        ("GPU-5", []),
        (f"{SLICES[1]},{SLICES[0]}", [SLICES[1], SLICES[0]]),
        ("MIG-a28ad590", [SLICES[1]]),
        ("1", [SECOND]),
        ("0", SLICES),
        (" 1 , 0", [SECOND, *SLICES]),
        ("1,7,0", [SECOND]),
        ("1,-1,0", [SECOND]),
        ("1,1,0", [SECOND, *SLICES]),
        ("-1", []),
        ("", []),
        ("none", []),
        ("GPU-5d", SLICES),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    smi: Smi, monkeypatch: pytest.MonkeyPatch, visible: str, found: list[str]
) -> None:
    """Indices, UUIDs and their unique beginnings count up to the first that is not there."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.uuid for card in visible_cards()] == found


def test_without_the_drivers_tools_device_files_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards of unknown memory go by the indices that CUDA gives them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_cards() == []
    glob = Path.glob
    here = {"/dev": [Path("/dev/nvidia2"), Path("/dev/nvidia5")]}
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(here.get(str(path)) or glob(path, pattern)))
    assert visible_cards() == [Card("0", "a GPU", 0, "0"), Card("1", "a GPU", 0, "1")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert [card.uuid for card in visible_cards()] == ["1"]


@pytest.mark.filterwarnings("ignore:subprocess .* is still running")
def test_a_driver_that_hangs_has_no_cards(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question ends with its time."""
    smi("", then="exec sleep 60")
    monkeypatch.setattr(cards, "_DRIVER_S", 0.2)
    assert visible_cards() == []


def test_each_child_gets_a_card_of_its_own(smi: Smi, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two children of a worker get two cards, and a third waits; what was given back is the last one next time."""
    own = Cards(tmp_path / "cards", [SMALL, WHOLE])
    with own.take() as first, own.take() as second:
        assert caplog.text == ""
        with pytest.raises(NoFreeCard), own.take():
            pass
    assert (first, second) == (SMALL, WHOLE)
    with own.take() as card:
        assert card == SMALL
    with own.take() as other:
        assert other == WHOLE, "another one than last time, on which a child may have failed"


HOLDER = """
import sys
from pathlib import Path
from worker.outside.cards import Cards, visible_cards
with Cards(Path(sys.argv[1]), visible_cards()).take() as card:
    print(card.uuid, flush=True)
    sys.stdin.read()
"""


def test_workers_of_a_host_share_cards_and_a_killed_one_frees_its_own(
    smi: Smi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While another process has the only card none is given, which is logged once, with the remedy; then it is."""
    smi(f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {SECOND})")
    folder = tmp_path / "cards"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    mine = Cards(folder, [WHOLE])
    with holder, ExitStack() as stack:
        stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == SECOND
        for _ in range(3):
            with pytest.raises(NoFreeCard), mine.take():
                pass
        (line,) = caplog.messages
        for part in (SECOND, WHOLE.name, str(folder), "CUDA_VISIBLE_DEVICES"):
            assert part in line
    with mine.take() as card:
        assert card == WHOLE


def test_a_card_that_has_vanished_is_not_handed_out(smi: Smi, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where `nvidia-smi` lists it no more another one is taken, and where it was the last one the log says so."""
    own = Cards(tmp_path / "cards", [SMALL, WHOLE])
    smi(f"GPU 1: NVIDIA A100-SXM4-40GB (UUID: {SECOND})")
    for _ in range(2):
        with own.take() as card:
            assert card == WHOLE
    smi("No devices were found")
    with pytest.raises(NoFreeCard), own.take():
        pass
    assert "are listed by nvidia-smi no more" in caplog.text
    smi(LISTED)
    with own.take() as card:
        assert card == SMALL


FINDING = '{{"topic": "PyTorch", "name": "PyTorch", "status": "{}", "found": "{}", "remedy": "{}"}}'


@pytest.mark.parametrize(
    ("written", "why_not"),
    [
        (FINDING.format("ok", "2.9: a product was computed on cuda", ""), None),
        (FINDING.format("warn", "computed on cpu", "update the driver"), "computed on cpu -> update the driver"),
        (FINDING.format("fail", "the result was wrong", ""), "the result was wrong"),
        (FINDING.format("fail", "the check itself failed: OutOfMemoryError: CUDA out of memory", ""), None),
        ('{"topic": "ONNX Runtime", "status": "fail", "found": "x", "remedy": ""}\n{"topic": "Py', "said nothing"),
    ],
)
def test_pytorch_is_tried_before_a_gpu_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, why_not: str | None
) -> None:
    """A finding of `python -m fedlas.cli.devices` on PyTorch is an obstacle, with its remedy; a full card is none."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho '{written}'\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    obstacle.cache_clear()
    found = obstacle()
    obstacle.cache_clear()
    assert found is None if why_not is None else why_not in str(found)


def test_the_trial_is_the_doctors() -> None:
    """The real process says something of PyTorch, whatever it is here."""
    obstacle.cache_clear()
    found = obstacle()
    obstacle.cache_clear()
    assert "has said nothing" not in str(found)
