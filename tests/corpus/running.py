"""Sends bad files through the real child: each in a child of its own, or many through one confined driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from service.registry.settings import WorkerSettings
from tests.corpus.case import BadFile
from tests.helpers.service import ROOT
from worker.documents import WorkOrder
from worker.outside.kinds.uploads import inspection_limits
from worker.sandbox import process as sandbox
from worker.sandbox.process import ChildOutcome
from worker.sandbox.protocol import ChildRequest, Limits

Json = dict[str, Any]
GIGABYTE = 10**9
_ORDER: TypeAdapter[WorkOrder] = TypeAdapter(WorkOrder)
_PATIENCE_S = 280
_TOGETHER = 20
#: Larger files share no process with smaller ones: 40 bytes of memory are allowed for each byte of a file.
_SMALL_BYTES = 2**20
_KINDS = {"models": "inspect_model", "datasets": "inspect_dataset"}


@dataclass(frozen=True)
class Answer:
    """The result for one file: a code (`"ready"` if it was accepted), its seconds, and bytes beside the libraries."""

    code: str
    message: str
    seconds: float
    peak: int
    log: str = ""


def order(case: BadFile, folder: Path) -> Json:
    """The request of the worker for this file, written into `folder`."""
    folder.mkdir(parents=True)
    file = case.make(folder)
    options = {name: _parsed(value) for name, value in case.options.items()}
    return {"order": {"kind": _KINDS[case.route], "options": options}, "file": str(file)}


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def limits_for(size: int) -> Limits:
    """The limits of an inspection, as the worker sets them."""
    return inspection_limits(WorkerSettings(), size)


def run_alone(case: BadFile, folder: Path) -> Answer:
    """The file in a sandboxed child of its own, limited as in production; its memory is watched from outside."""
    ordered = order(case, folder / "upload")
    private = folder / "private"
    private.mkdir()
    started = time.monotonic()
    with _Watch() as watch:
        outcome = sandbox.run(
            ChildRequest(
                order=_ORDER.validate_python(ordered["order"]),
                files=dict.fromkeys(("model", "dataset"), ordered["file"]),
                limits=limits_for(Path(ordered["file"]).stat().st_size),
            ),
            folder=private,
            on_event=lambda event: None,
            on_tick=lambda: None,
        )
    assert outcome.loaded is not None, outcome.log
    return _answer(outcome, time.monotonic() - started, watch.peak - outcome.loaded.resident)


def run_in_turn(cases: Sequence[BadFile], folder: Path) -> list[Answer]:
    """All files, a few to a process: what earlier files leave in its memory counts against the limit of later ones."""
    folder.mkdir()
    orders = [order(case, folder / f"upload{number}") for number, case in enumerate(cases)]
    found: list[Answer] = []
    for _, alike in groupby(orders, lambda ordered: _size(ordered) > _SMALL_BYTES):
        run = list(alike)
        for start in range(0, len(run), _TOGETHER):
            part = run[start : start + _TOGETHER]
            answers = _driven(part, folder / f"part{len(found)}")
            found += answers
            if len(answers) < len(part):
                return found
    return found


def run_together(cases: Sequence[BadFile], folder: Path) -> list[Answer]:
    """The files one after the other in one confined process; what it did not reach was lost with it."""
    folder.mkdir()
    return _driven([order(case, folder / f"upload{number}") for number, case in enumerate(cases)], folder / "part")


def _driven(orders: Sequence[Json], folder: Path) -> list[Answer]:
    folder.mkdir()
    placed = [{**ordered, "folder": str(folder / f"private{number}")} for number, ordered in enumerate(orders)]
    limits = {**vars_of(limits_for(max(map(_size, orders), default=0))), "seconds": 24 * 3600}
    (folder / "orders.json").write_text(json.dumps({"orders": placed, "limits": limits}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.corpus.driver", str(folder)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, timeout=_PATIENCE_S,
        env=sandbox._environment(folder, ""),
    )  # fmt: skip
    answers = json.loads((folder / "answers.json").read_text()) if (folder / "answers.json").exists() else []
    found = [_from_driver(answer) for answer in answers]
    if len(found) < len(orders):
        found.append(Answer(f"died with {done.returncode}", done.stderr[-2000:], 0, 0))
    return found


def _size(ordered: Json) -> int:
    return Path(ordered["file"]).stat().st_size


def vars_of(limits: Limits) -> Json:
    """Limits as the child gets them."""
    return {name: getattr(limits, name) for name in ("seconds", "address_space", "file_size", "memory", "cores")}


def _from_driver(answer: Json) -> Answer:
    error = answer.get("error") or {"code": "ready", "message": ""}
    return Answer(error["code"], error["message"], answer["seconds"], answer["peak"])


def _answer(outcome: ChildOutcome, seconds: float, peak: int) -> Answer:
    if outcome.died is not None:
        return Answer(f"died: {outcome.died}", "", seconds, peak, outcome.log)
    if outcome.error is None:
        return Answer("ready", "", seconds, peak, outcome.log)
    return Answer(outcome.error.code, outcome.error.message, seconds, peak, outcome.log)


class _Watch:
    """Looks at the sandboxed child of this process again and again, and remembers its largest resident set."""

    def __enter__(self) -> _Watch:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        own, cmdline = str(os.getpid()), Path("/proc/self/cmdline").read_bytes()
        while not self._done.wait(0.02):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    status = (entry / "status").read_text()
                    forked = (entry / "cmdline").read_bytes() == cmdline  # and still as large as this process
                except OSError:
                    continue
                if not forked and f"\nPPid:\t{own}\n" in status and "VmHWM:" in status:
                    self.peak = max(self.peak, 1024 * int(status.partition("VmHWM:")[2].split()[0]))
