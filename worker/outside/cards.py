"""The cards of a worker, a GPU or a MIG slice each: which there are, whether they compute, and whose turn one is.

`nvidia-smi` says which there are: asking CUDA itself would take memory on each of them. A card is one training's at a
time, since two would share its memory, and none of them knows how much the other is going to need.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from service.registry.object_store import try_lock

_LOG = logging.getLogger("fedlas.worker")

#: The child's ways to say that a card's memory does not hold its network, and that the card failed: no fault of a job.
CARD_TOO_SMALL = "card_too_small"
CARD_FAILED = "card_failed"
#: A driver that hangs answers nobody. PyTorch with CUDA is 2.5 GB, which a cold disk of 20 MB/s reads in two minutes.
_DRIVER_S = 60.0
_PYTORCH_S = 300.0


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU or a slice of one.

    Attributes:
        uuid: names it in `CUDA_VISIBLE_DEVICES`.
        memory_bytes: 0 where it is unknown.
        gpu: the UUID of the GPU that it is, or is a slice of.
    """

    uuid: str
    name: str
    memory_bytes: int
    gpu: str


class NoFreeCard(Exception):
    """Every card of this worker is in use, or has vanished."""


def visible_cards() -> list[Card]:
    """The cards that this process may use.

    `CUDA_VISIBLE_DEVICES` is read as CUDA reads it: indices, UUIDs or unique beginnings of them, up to the first that
    is not there. A GPU that is cut stands for all of its slices.
    """
    cards = _listed_cards()
    gpus = list(dict.fromkeys(card.gpu for card in cards))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(len(gpus)))))
    found: list[Card] = []
    for word in map(str.strip, visible.split(",")):
        named = (
            gpus[int(word) :][:1]
            if word.isdecimal()
            else [uuid for uuid in {*gpus, *(card.uuid for card in cards)} if word and uuid.startswith(word)]
        )
        if len(named) != 1:
            break
        found += [card for card in cards if named[0] in (card.uuid, card.gpu) and card not in found]
    return found


def _listed_cards() -> list[Card]:
    """The cards of this machine, those of a GPU together, in the order of the GPUs' indices."""
    try:
        listed = _written_by("nvidia-smi", "-L")
        sizes = _written_by("nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
    except OSError:  # an image without the driver's tools: CUDA counts the devices that it may open
        return [Card(str(i), "a GPU", 0, str(i)) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    # "GPU-…, 40960", or "[N/A]" of a GPU that shares the memory of its machine.
    mebibytes = dict(re.findall(r"^(GPU-\S+), (\d+)", sizes, re.MULTILINE))
    gpu = ""
    # "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-…)", and below one that is cut "  MIG 1g.5gb  Device  0: (UUID: MIG-…)":
    # https://docs.nvidia.com/datacenter/tesla/mig-user-guide/. The memory of 1g.5gb are 4,864 MiB, or 5.1 GB.
    line = r"^\s*(?:GPU \d+:|MIG) (.+?(?:\.(\d+)gb\S*)?)(?:\s+Device\s+\d+:)? \(UUID: (\S+)\)"
    found = [
        Card(
            uuid,
            name,
            int(mebibytes.get(uuid, 0)) * 1024**2 or int(gigabytes or 0) * 10**9,
            gpu := uuid if uuid.startswith("GPU-") else gpu,
        )
        for name, gigabytes, uuid in re.findall(line, listed, re.MULTILINE)
    ]
    return [card for card in found if card.uuid not in {part.gpu for part in found if part.uuid != part.gpu}]


def _written_by(*command: str, seconds: float | None = None) -> str:
    """The text that a program has written when it ends, or its time does; raises OSError where there is none."""
    with tempfile.TemporaryFile() as file:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            program.wait(seconds or _DRIVER_S)
        program.kill()  # and is not waited for: the driver may hold it where no signal reaches it
        file.seek(0)
        return file.read().decode(errors="replace")


@cache
def obstacle() -> str | None:
    """Reason why PyTorch does not compute on the GPU, with the remedy; tried once, in a process that ends."""
    lines = re.findall(
        r"^.*}$", _written_by(sys.executable, "-m", "fedlas.cli.devices", seconds=_PYTORCH_S), re.MULTILINE
    )
    finding = next(
        (finding for finding in map(json.loads, lines) if finding["topic"] == "PyTorch"),
        {"status": "fail", "found": "the trial of PyTorch has said nothing", "remedy": "run fedlas doctor"},
    )
    # A card whose memory another process has filled does compute.
    computes = finding["status"] not in ("warn", "fail") or "out of memory" in finding["found"]
    return None if computes else "{found} -> {remedy}".format_map(finding)


@dataclass
class Cards:
    """The cards of one worker, each for one child at a time.

    A card that is handed out is locked by a file in a folder that all workers of a host share. The lock ends with the
    process that holds it, however that ends.

    Attributes:
        known: those that were there when the worker began, that which was handed out last at the end.
        told: whether the log says already that none is free.
    """

    folder: Path
    known: list[Card]
    told: bool = False

    @contextmanager
    def take(self) -> Iterator[Card]:
        """A card that nobody trains on, until the block ends; raises NoFreeCard, which the log tells once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for card in list(self.known):
            with (self.folder / card.uuid.replace("/", "-")).open("ab") as lock:  # older drivers: MIG-GPU-…/1/0
                if not try_lock(lock.fileno()) or all(other.uuid != card.uuid for other in visible_cards()):
                    continue
                self.known.sort(key=card.__eq__)  # the last one next time: work that it fails is tried on another
                self.told = False
                yield card
                return
        _LOG.log(
            logging.DEBUG if self.told else logging.WARNING,
            "no calibration begins here: %s are in use, by whoever has locked them in %s, or are listed by nvidia-smi "
            "no more; give each worker cards of its own (CUDA_VISIBLE_DEVICES), and no more threads (-c) than cards",
            ", ".join(f"{card.uuid} ({card.name})" for card in self.known),
            self.folder,
        )
        self.told = True
        raise NoFreeCard
