"""The command `fedlas` as a process of its own, and what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.helpers import ROOT
from tests.helpers.uploads import npz, to_onnx

#: A module run as `fedlas` is.
COMMAND = [sys.executable, "-m", "fedlas.cli"]


def environment(**variables: str) -> dict[str, str]:
    """Variables of this process without those of FedLAS, and others on top."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
    return {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CONFIG_HOME": "/nonexistent", **variables}


def fedlas(
    *arguments: object,
    stdin: bytes = b"",
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; stdin is a pipe."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(**(variables or {})),
        timeout=240,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def scaled_model(scale: float) -> bytes:
    """A network whose logits (N, 3) are its inputs times a number: exact for `drawn_rows` at 1, too sure above."""
    network = nn.Linear(3, 3)
    with torch.no_grad():
        network.weight.copy_(scale * torch.eye(3))
        network.bias.zero_()
    return to_onnx(network.eval(), (torch.zeros(2, 3),))


def drawn_rows(*, test: int, calibration: int = 400, wrong: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (N, 3) float32, labels drawn from their softmax (of calibration a share `wrong`), and split words."""
    rng, count = np.random.default_rng(0), calibration + test
    rows = (2 * rng.normal(size=(count, 3))).astype(np.float32)
    labels = (rows + rng.gumbel(size=rows.shape)).argmax(axis=1)
    labels[: int(wrong * calibration)] += 1
    return rows, labels % 3, np.repeat(["calibration", "test"], [calibration, test])


def drawn_npz(*, test: int, wrong: float = 0.0) -> bytes:
    """The drawn rows as a dataset."""
    rows, labels, split = drawn_rows(test=test, wrong=wrong)
    return npz(x=rows, label=labels, split=split)


def drawn_scores(scale: float, *, test: int, wrong: float = 0.0) -> bytes:
    """The scores of a network of that scale for the drawn rows."""
    rows, labels, split = drawn_rows(test=test, wrong=wrong)
    return npz(logits=scale * rows, label=labels, split=split)
