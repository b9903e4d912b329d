"""Every bad file gets its answer: through the worker's real steps, confined and limited as in production."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedlas.errors import UnsupportedModel
from fedlas.importers import load_onnx
from tests.corpus import foreign, images, models, tables
from tests.corpus.building import as_file
from tests.corpus.case import BadFile
from tests.corpus.foreign import Canary, pickled
from tests.corpus.running import GIGABYTE, Answer, run_alone, run_in_turn, run_together
from tests.helpers import uploads as made
from tests.helpers.service import descendants_of, is_alive

pytestmark = pytest.mark.slow

ALL: list[BadFile] = [*models.CASES, *tables.CASES, *images.CASES]
BY_KIND = {"models": models.CASES, "tables": tables.CASES, "images": images.CASES}
#: Files that try to take all memory, time or disk: their limits are worth a process each in every run.
HUNGRY = (
    "50 GB by ConstantOfShape", "50 GB by Concat 40 times", "ten million empty nodes", "If 1,000 deep", "deflated.pth",
    "external data: a symbolic link",
)  # fmt: skip
#: Answers to a damaged ONNX file; `"ready"` where the damage changed nothing that counts, proven by parity.
DAMAGED = {
    "ready", "truncated", "corrupt", "invalid_graph", "not_onnx", "unsafe_format", "unsupported_operator",
    "unsupported_opset", "no_classifier_output", "ambiguous_output", "fixed_batch", "declared_size", "bad_name",
    "non_finite_weights", "external_data", "duplicate_name", "cyclic_graph", "unsupported_input", "not_runnable",
    "import_mismatch", "quantized", "unknown_output",
}  # fmt: skip


def wrong(cases: list[BadFile], answers: list[Answer]) -> list[str]:
    """A line for each file that was not answered as it should have been, or took more than it may."""
    found = [
        f"{case.name}: {answer.code} {answer.message[:200]!r} in {answer.seconds:.1f} s, {answer.peak / 1e6:.0f} MB"
        for case, answer in zip(cases, answers, strict=False)
        if answer.code not in case.codes
        or answer.seconds > 30
        or answer.peak >= GIGABYTE
        or "Traceback" in answer.message
    ]
    return found + [f"{case.name}: not reached" for case in cases[len(answers) :]]


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Whatever a test opens, its processes end with it."""
    yield
    left = [pid for pid in descendants_of(os.getpid()) if is_alive(pid) and b"worker.inside.child" in _command(pid)]
    assert left == []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("kind", BY_KIND)
def test_all_are_answered_by_one_child(kind: str, tmp_path: Path) -> None:
    """Each file of the corpus is answered with one of its codes, and the process that opened it opens the next."""
    assert wrong(list(BY_KIND[kind]), run_in_turn(BY_KIND[kind], tmp_path / "all")) == []
    assert list(tmp_path.rglob("canary")) == []


@pytest.mark.parametrize("name", HUNGRY)
def test_hungry_files(name: str, tmp_path: Path) -> None:
    """A file that would take all memory is refused within the limits of a sandboxed child of its own."""
    (case,) = (case for case in ALL if case.name == name)
    _alone(case, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_each_alone(case: BadFile, tmp_path: Path) -> None:
    """Each file opens in a sandboxed child of its own with its code, within 30 s and 1 GB; nothing is left outside."""
    _alone(case, tmp_path)


def _alone(case: BadFile, folder: Path) -> None:
    before = _shared_memory()
    answer = run_alone(case, folder / "alone")
    assert wrong([case], [answer]) == [], answer.log
    assert {path.name for path in folder.iterdir()} == {"alone"}
    assert _shared_memory() - before == set()
    assert list(folder.rglob("canary")) == []


def _shared_memory() -> set[str]:
    """The files in shared memory, but for those of the database servers of tests that run beside this one."""
    place = Path("/dev/shm")
    names = {path.name for path in place.iterdir()} if place.exists() else set()
    return {name for name in names if not name.startswith("PostgreSQL.")}


def _bytes_as_case(name: str, content: bytes) -> BadFile:
    return BadFile(name, as_file(lambda: content), frozenset(DAMAGED), "models")


def damaged_files() -> list[BadFile]:
    """A good model cut off at every hundredth of its length, and with single bytes changed at random places."""
    good = made.image_model()
    cut = [_bytes_as_case(f"cut at {share} %", good[: len(good) * share // 100]) for share in range(100)]
    rng = np.random.default_rng(0)
    changed = []
    for number in range(100):
        content = bytearray(good)
        place = int(rng.integers(len(content)))
        content[place] ^= int(rng.integers(1, 256))
        changed.append(_bytes_as_case(f"byte {place} changed ({number})", bytes(content)))
    return [*cut, *changed]


def test_damaged_files(tmp_path: Path) -> None:
    """A file that is cut off anywhere is refused; one with a changed byte is refused, or ready with parity proven."""
    cases = damaged_files()
    answers = run_together(cases, tmp_path / "all")
    assert wrong(cases, answers) == []
    assert {answer.code for answer in answers[:100]} <= {"truncated", "corrupt", "not_onnx"}
    assert sum(answer.code == "ready" for answer in answers[100:]) > 20  # most bytes are weights: still a classifier


def test_the_canary_sings(tmp_path: Path) -> None:
    """The pickles of the corpus really do create their file when somebody opens them: its absence means something."""
    path = tmp_path / "file"
    path.write_bytes(pickled(4)(tmp_path))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert (tmp_path / "canary").exists()
    assert Canary(tmp_path).__reduce__()[0] is open


@pytest.mark.parametrize("case", foreign.CASES, ids=lambda case: case.name)
def test_no_pickle_is_opened_even_unconfined(case: BadFile, tmp_path: Path) -> None:
    """The importer itself opens no pickle under any name; the answer says how to export, or where weights convert."""
    with pytest.raises(UnsupportedModel) as caught:
        load_onnx(case.make(tmp_path))
    assert caught.value.code in case.codes
    said = {"unsafe_format": ["torch.onnx.export"], "needs_graph": ["architecture=", "on your machine"]}
    assert all(word in caught.value.message for word in said.get(caught.value.code, []))
    assert not (tmp_path / "canary").exists()
