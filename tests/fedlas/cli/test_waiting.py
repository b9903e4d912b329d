"""Whoever waits at a command is told what for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fedlas.client import Client
from tests.helpers.command_line import COMMAND, environment

NOBODY = "no worker takes this; there is none that inspects uploads"


def test_calibrate_says_that_nobody_takes_the_job(idle: str, files: Path) -> None:
    """Once, on stderr, as soon as it waits; a process is needed, since it waits until the job is cancelled."""
    with Client(idle, "the-right-key-of-all") as client:
        model = client.models.upload(files / "sharp.onnx", wait=False)
        dataset = client.datasets.upload(files / "few.npz", wait=False)
        process = subprocess.Popen(
            [*COMMAND, "calibrate", model.id, dataset.id, "--watch"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(FEDLAS_URL=idle, FEDLAS_API_KEY="the-right-key-of-all"),
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
