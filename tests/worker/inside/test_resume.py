"""A job that is killed anywhere and begun again ends as if nothing had happened, in real child processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlas.contract.options import DatasetOptions, ModelOptions
from fedlas.contract.requests import JobRequest
from tests.helpers.imports import COMPILER, PROFILED, imported
from tests.helpers.uploads import Uploads
from worker.documents import InspectDatasetOrder, InspectModelOrder, JobOrder, OrderedDataset, OrderedModel
from worker.inside.inspection import inspect_dataset, inspect_model
from worker.sandbox.protocol import ChildRequest, Limits

Json = dict[str, Any]
Moment = Callable[["Job", Json], bool]
Given = tuple[JobOrder, dict[str, Path]]
Whole = tuple["Job", dict[str, bytes]]
ROOT = Path(__file__).parents[3]
OUTCOMES = ("report.json", "report.html", "reliability.svg", "calibrated.onnx")
#: Four candidates run two folds, the best three the third, two are refitted, and their average with the upload wins.
REQUEST = {
    "method": "auto",
    "hyperparameters": {"batch_size": 16, "learning_rate": 0.1, "epochs": 4},
    "budget": {"minutes": 10, "candidates": 4},
}


@dataclass
class Job:
    """One job with its attempts, kept as its supervisor keeps it: events in order, files by the names of entries."""

    order: JobOrder
    files: dict[str, Path]
    place: Path
    journal: dict[str, str] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    attempts: int = 0
    seconds: float = 0.0

    def attempt(self, moment: Moment = lambda job, event: False, *, kill_after: float | None = None) -> Path | None:
        """Run a child that is killed at the moment's event or after `kill_after` seconds; its folder if it is not."""
        self.attempts, began = self.attempts + 1, time.monotonic()
        folder = self.place / f"attempt-{self.attempts}"
        folder.mkdir(parents=True)
        files = {name: str(file) for name, file in self.files.items()}
        files |= {f"checkpoint.{name}": file for name, file in self.journal.items()}
        request = ChildRequest[JobOrder](order=self.order, files=files, limits=Limits(3600), expected=[])
        (folder / "request.json").write_text(request.model_dump_json())
        with (folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.inside.child", str(folder)],
                cwd=folder,
                env={**os.environ, **PROFILED, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        timer = threading.Timer(kill_after or 0.0, os.killpg, (child.pid, signal.SIGKILL))
        if kill_after is not None:
            timer.start()
        with child:
            assert child.stdout is not None
            for line in child.stdout:
                if not line.endswith(b"\n"):
                    break  # killed in the middle of it
                event = json.loads(line)
                self._note(folder, event)
                if moment(self, event):
                    os.killpg(child.pid, signal.SIGKILL)
                    return None
            ended = child.wait(60)
        timer.cancel()
        if kill_after is not None and ended == -signal.SIGKILL:
            return None
        assert ended == 0
        self.seconds = time.monotonic() - began
        answer = json.loads((folder / "answer.json").read_text())
        assert "result" in answer, (answer, (folder / "log.txt").read_text())
        assert "ignored" not in (folder / "log.txt").read_text()
        return folder

    def _note(self, folder: Path, event: Json) -> None:
        self.events.append(event)
        if (entry := event.get("checkpoint")) is not None:
            name, file = entry["name"], entry["file"]
            assert re.fullmatch(r"[a-z0-9-]{1,64}", name)
            assert re.fullmatch(r"[a-z0-9.-]{1,80}", file)
            kept = self.place / f"{self.attempts}-{file}"
            shutil.copyfile(folder / "journal" / file, kept)
            (folder / "journal" / file).unlink()
            self.journal[name] = str(kept)

    def saved(self) -> Counter[str]:
        """How often each entry was saved."""
        return Counter(event["checkpoint"]["name"] for event in self.events if "checkpoint" in event)

    def finished(self) -> dict[str, int]:
        """How often each training was finished."""
        return {name: times for name, times in self.saved().items() if name.startswith("candidate")}

    def candidates(self) -> list[Json]:
        """The report of each candidate at its end, without how long it took."""
        told = [event["event"]["data"] for event in self.events if event.get("event", {}).get("type") == "candidate"]
        assert all(data["seconds"] >= 0 for data in told)
        return [{key: value for key, value in data.items() if key != "seconds"} for data in told]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """An overconfident network, and digits that it has never seen, inspected."""
    folder, uploads = tmp_path_factory.mktemp("inputs"), Uploads()
    files = {"model": folder / "m.onnx", "dataset": folder / "d.npz"}
    files["model"].write_bytes(uploads["digits.onnx"])
    files["dataset"].write_bytes(uploads["fresh.npz"])
    model = inspect_model(InspectModelOrder(options=ModelOptions()), files, folder, lambda _: None)
    unseen = InspectDatasetOrder(options=DatasetOptions(seen_by_model="no"))
    data = inspect_dataset(unseen, files, folder, lambda _: None)
    order = JobOrder(
        kind="calibrate",
        job_id="job_1",
        created_at=datetime(2026, 7, 5, 9, 3, 1, tzinfo=UTC),
        request=JobRequest(model_id="mdl_1", dataset_id="ds_1", **REQUEST),  # type: ignore[arg-type]
        model=OrderedModel(
            id="mdl_1", name="digits", sha256="0", row_key="0" * 32, options=ModelOptions(), profile=model.profile
        ),
        dataset=OrderedDataset(id="ds_1", name="fresh", sha256="1", prepared_sha256="2"),
        checkpoint_seconds=0.0,
    )
    return order, {**files, "dataset": folder / data.prepared}


@pytest.fixture(scope="module")
def whole(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An undisturbed job, and the files that it leaves."""
    job = Job(*given, tmp_path_factory.mktemp("whole"))
    folder = job.attempt()
    assert folder is not None
    answer, report = (json.loads((folder / name).read_text()) for name in ("answer.json", "report.json"))
    splits = ["train", "calibration"]
    seen = {"dataset_id": "ds_1", "sha256": "1", "splits": splits, "network": splits}
    assert answer["result"]["calibrated"]["trained_on"] == [seen]
    assert report["subject"] == {
        "model": {"name": "digits", "id": "mdl_1", "sha256": "0"},
        "dataset": {"name": "fresh", "id": "ds_1", "sha256": "1"},
        "job_id": "job_1",
        "created_at": "2026-07-05T09:03:01Z",
    }
    assert (report["verdict"], report["recipe"]["winner"]["method"]) == ("trained", "average")
    assert [len(re.findall(kind, " ".join(job.finished()))) for kind in ("fold", "refit")] == [11, 2]
    return job, {name: (folder / name).read_bytes() for name in OUTCOMES}


def saved(name: str, times: int = 1) -> Moment:
    """The moment at which an entry of that name was saved so many times."""
    return lambda job, event: event.get("checkpoint", {}).get("name") == name and job.saved()[name] == times


def stage(name: str) -> Moment:
    """The moment at which a stage begins."""
    return lambda job, event: event.get("stage") == name


def epoch_after(finished: int) -> Moment:
    """The moment at which the training that follows so many finished ones has its first epoch behind it."""
    return lambda job, event: event.get("checkpoint", {}).get("name") == "running" and len(job.finished()) == finished


def check_same(job: Job, folder: Path | None, whole: Whole) -> None:
    """The job has ended with the bytes of the undisturbed one, and trained no finished candidate again."""
    undisturbed, files = whole
    assert folder is not None
    for name in OUTCOMES:
        assert (folder / name).read_bytes() == files[name], name
    assert job.finished() == undisturbed.finished()
    assert set(job.finished().values()) == {1}
    assert job.candidates() == undisturbed.candidates()


@pytest.mark.slow
def test_a_job_loads_no_compiler(whole: Whole) -> None:
    """Neither opening a network nor training, calibrating and writing it loads PyTorch's compiler."""
    modules = imported((whole[0].place / "attempt-1" / "log.txt").read_text())
    assert "torch" in modules
    assert modules & COMPILER == set()


MOMENTS = {
    "first decision": saved("decisions"),
    "plan": saved("decisions", 5),
    "first state": saved("running"),
    "second state": saved("running", 2),
    "first finished": saved("candidate-01-04-fold-1"),
    "third fold": epoch_after(8),
    "told of": saved("decisions", 9),
    "refit": epoch_after(11),
    "second refit": epoch_after(12),
    "calibrating": stage("calibrating"),
    "exporting": stage("exporting"),
    "publishing": stage("publishing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("every_second", [0, 1])
def test_a_job_killed_anywhere_ends_the_same(given: Given, whole: Whole, tmp_path: Path, every_second: int) -> None:
    """Killed at moments of its whole life and begun again, a job ends with the bytes of an undisturbed one."""
    job = Job(*given, tmp_path)
    for name in list(MOMENTS)[every_second::2]:
        assert job.attempt(MOMENTS[name]) is None, name
    check_same(job, job.attempt(), whole)


@pytest.mark.slow
@pytest.mark.parametrize("share", np.random.default_rng(0).uniform(0.2, 1.0, size=2).round(3).tolist())
def test_a_job_killed_at_a_random_moment_ends_the_same(
    given: Given, whole: Whole, tmp_path: Path, share: float
) -> None:
    """A kill in the middle of whatever the job is doing, a write or an event, changes no result, twice over."""
    job = Job(*given, tmp_path)
    check_same(job, job.attempt(kill_after=share * whole[0].seconds) or job.attempt(), whole)


@pytest.mark.slow
def test_a_job_that_is_killed_all_the_time_arrives(given: Given, whole: Whole, tmp_path: Path) -> None:
    """Killed as soon as anything new is finished, a job still ends, and with the same bytes."""
    job = Job(*given, tmp_path)
    for attempt in range(1, 20):
        folder = job.attempt(lambda job, _, number=attempt: len(job.finished()) == number)  # type: ignore[misc]
        if folder is not None:
            break
    assert job.attempts == len(whole[0].finished()) + 1
    check_same(job, folder, whole)


@pytest.mark.slow
def test_another_jobs_journal_is_not_used(given: Given, whole: Whole, tmp_path: Path) -> None:
    """Entries of another request, and files that are none, are passed over with a line in the log; the job runs."""
    (tmp_path / "broken.pt").write_bytes(b"PK nothing")
    order, files = given
    other = order.model_copy(update={"request": order.request.model_copy(update={"seed": 1})})
    journal = {**whole[0].journal, "candidate-01-04-fold-1": str(tmp_path / "broken.pt")}
    job = Job(other, files, tmp_path, journal=journal)
    assert job.attempt(saved("candidate-01-04-fold-1")) is None
    log = (tmp_path / "attempt-1" / "log.txt").read_text()
    assert job.finished() == {"candidate-01-04-fold-1": 1}, "it was trained here"
    assert "the entry decisions is of another race and is ignored" in log
    assert "broken.pt cannot be read and is ignored" in log


def test_bits_do_not_depend_on_where_an_array_lies() -> None:
    """In a child a product of matrices is the same to the last bit wherever the allocator has put them."""
    code = (
        "import os\n"
        "from worker.inside import child\n"
        "os.environ.update(child._SAME_BITS)\n"
        "import numpy as np, torch\n"
        "rows = np.random.default_rng(0).normal(size=(7, 512)).astype(np.float32)\n"
        "weights = torch.from_numpy(np.random.default_rng(1).normal(size=(10, 512)).astype(np.float32))\n"
        "products = set()\n"
        "for offset in (0, 4, 16, 32, 48):\n"
        "    memory = np.empty(rows.nbytes + 128, np.uint8)\n"
        "    start = -memory.ctypes.data % 64 + offset\n"
        "    moved = memory[start : start + rows.nbytes].view(np.float32).reshape(rows.shape)\n"
        "    moved[...] = rows\n"
        "    products.add(torch.nn.functional.linear(torch.from_numpy(moved), weights).numpy().tobytes())\n"
        "print(len(products))\n"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True, timeout=60) == "1\n"
