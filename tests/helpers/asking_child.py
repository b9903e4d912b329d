"""A real child of a race over workers, driven line by line as its supervisor would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.documents import CalibrateOrder, CandidateOrder, EndReply, GoOnReply, TrainReply
from worker.sandbox.protocol import ChildRequest, Limits

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]


class AskingChild:
    """A child, what it has told, and copies of what it has saved by the names of its entries."""

    def __init__(self, order: CalibrateOrder | CandidateOrder, files: Mapping[str, Path], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.saved = folder, dict[str, Path]()
        self.events: list[Json] = []
        paths = {name: str(file) for name, file in files.items()}
        request = ChildRequest[CalibrateOrder | CandidateOrder](order=order, files=paths, limits=Limits(3600))
        (folder / "request.json").write_text(request.model_dump_json())
        with (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.inside.child", str(folder)],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def told(self) -> list[Json]:
        """What it tells until it asks, or ends."""
        assert self.process.stdout is not None
        new: list[Json] = []
        for line in self.process.stdout:
            new.append(json.loads(line))
            if (entry := new[-1].get("checkpoint")) is not None:
                self._take(entry["name"], entry["file"])
            if "asks" in new[-1]:
                break
        self.events += new
        return new

    def _take(self, name: str, file: str) -> None:
        kept = self.folder / "kept" / file
        kept.parent.mkdir(exist_ok=True)
        shutil.move(self.folder / "journal" / file, kept)
        self.saved[name] = kept

    def give(self, entries: Mapping[str, Path]) -> dict[str, str]:
        """Put entries into its journal's folder."""
        (self.folder / "journal").mkdir(exist_ok=True)
        given = {name: f"given-{number}.pt" for number, name in enumerate(entries)}
        for name, file in given.items():
            shutil.copyfile(entries[name], self.folder / "journal" / file)
        return given

    def reply(self, reply: TrainReply | GoOnReply | EndReply) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(reply.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Json:
        """What it ends with."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        code = self.process.wait(120)
        self.process.stdout.close()
        self.process.stdin.close()
        log = (self.folder / "log.txt").read_text()
        assert code == 0, log
        answer: Json = json.loads((self.folder / "answer.json").read_text())
        assert "result" in answer, (answer, log)
        assert "ignored" not in log, log
        return answer
