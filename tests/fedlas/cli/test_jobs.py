"""Verdicts as exit codes, of real scores, jobs and local calibrations; and the sentences for a caller who waits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import onnx
import pytest

from fedlas.client import Client
from tests.fedlas.cli.conftest import Command, Here
from tests.helpers.command_line import COMMAND, environment, fedlas

pytestmark = pytest.mark.slow

UNKNOWN = ("--seen-by-model", "unknown")


@pytest.mark.parametrize(("scores", "code"), [("sharp_scores.npz", 0), ("few_scores.npz", 5), ("wrong_scores.npz", 3)])
def test_a_calibrator_gates(here: Here, scores: str, code: int, tmp_path: Path) -> None:
    """Scores that are too sure are shown to become better on many rows, not on few; wrong labels are vetoed."""
    out = tmp_path / "calibrator.onnx"
    options = ("--require", "significant", "--method", "temperature", "--out", out, "--json")
    done = here("calibrators", "create", scores, *options)
    record = json.loads(done.stdout)
    assert (done.returncode, record["status"], out.exists()) == (code, "succeeded", True)
    verdict, shown = (record["report"][key] for key in ("verdict", "significant"))
    assert (verdict, shown) == ("unchanged" if code == 3 else "post_hoc", code == 0)


@pytest.mark.parametrize(
    ("rows", "options", "code", "verdict"),
    [
        ("many.npz", ["--seen-by-model", "no", "--require", "significant"], 0, "post_hoc"),
        pytest.param("many.npz", [*UNKNOWN, "--require", "calibrated"], 4, "undetermined", marks=pytest.mark.slow),
    ],
)
def test_a_local_job_gates(files: Path, tmp_path: Path, rows: str, options: list[str], code: int, verdict: str) -> None:
    """`--local` needs no server, ends with the same codes, and leaves the same files, with the outputs asked for."""
    out, report = tmp_path / "calibrated.onnx", tmp_path / "report.json"
    done = fedlas(
        *("calibrate", files / "sharp.onnx", files / rows, "--local", "--method", "temperature", "--json"),
        *("--out", out, "--report", report, "--job", '{"outputs": ["typicality"]}', *options),
        variables={"FEDLAS_URL": "http://127.0.0.1:1"},
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"]) == (code, verdict), done.stderr
    assert json.loads(report.read_text()) == document
    assert document["subject"]["model"]["name"] == "sharp.onnx"
    assert out.exists()
    if code == 0 and verdict == "post_hoc":
        assert "typicality" in {output.name for output in onnx.load(out).graph.output}
        assert fedlas("predict", out, "-", "-q", stdin=b"[[3, 0, 0], [0, 0, 3]]").stdout.split() == ["0", "2"]


def test_jobs_gate(command: Command, here: Here) -> None:
    """Jobs that show too little give the codes of the table, while they are watched and later by their report."""
    ids = {"sharp": here("models", "upload", "sharp.onnx", "-q").stdout.strip()}
    for rows, seen in (("few", "no"), ("many", "unknown")):
        given = ("datasets", "upload", f"{rows}.npz", "--seen-by-model", seen, "-q")
        ids[rows, seen] = here(*given).stdout.strip()
    orders = {
        here(
            "calibrate", ids[model], ids[rows, seen], "--method", "temperature", "--detach", "-q"
        ).stdout.strip(): codes
        for model, rows, seen, codes in (
            ("sharp", "few", "no", (0, 0, 5)),
            ("sharp", "many", "unknown", (0, 4, 4)),
        )
    }
    for job, codes in orders.items():
        watched = command("jobs", "watch", job, "-q")
        assert (watched.returncode, watched.stdout, watched.stderr) == (0, f"{job}\n", "")
        for require, code in zip(("any", "calibrated", "significant"), codes, strict=True):
            assert here("jobs", "watch", job, "--require", require, "-q").returncode == code
            assert here("report", job, "--require", require, "-q").returncode == code


NOBODY = "no worker takes this yet; there is none that inspects uploads"


def test_calibrate_says_that_nobody_takes_the_job(idle: str, files: Path) -> None:
    """The sentence comes once, on stderr, as soon as the job waits; a process is needed, since it waits for its end."""
    with Client(idle, "the-right-key-of-all-0123456789a") as client:
        model = client.models.upload(files / "sharp.onnx", wait=False)
        dataset = client.datasets.upload(files / "few.npz", wait=False)
        process = subprocess.Popen(
            [*COMMAND, "calibrate", model.id, dataset.id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(FEDLAS_URL=idle, FEDLAS_API_KEY="the-right-key-of-all-0123456789a"),
            text=True,
        )
        assert process.stderr is not None
        told = [process.stderr.readline()]
        while NOBODY not in told[-1]:
            assert told[-1], told
            told.append(process.stderr.readline())
        (job,) = client.jobs.list()
        assert told[-1] == f"{job.id}: {NOBODY}\n"
        job.cancel()
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 1
    assert NOBODY not in rest
