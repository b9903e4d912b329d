"""Modules that a child that opens a model loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fedlas.contract.options import ModelOptions
from tests.helpers.imports import COMPILER, PROFILED, imported
from tests.helpers.uploads import Uploads
from worker.documents import InspectModelOrder
from worker.sandbox.protocol import ChildRequest, Limits

ROOT = Path(__file__).parents[3]


def test_an_inspection_loads_no_compiler(tmp_path: Path) -> None:
    """A convolutional network is opened, proven and written without PyTorch's compiler (see `test_resume` for jobs)."""
    (tmp_path / "model.onnx").write_bytes(Uploads()["images.onnx"])
    order = InspectModelOrder(options=ModelOptions())
    request = ChildRequest(order=order, files={"model": str(tmp_path / "model.onnx")}, limits=Limits(600))
    (tmp_path / "request.json").write_text(request.model_dump_json())
    child = subprocess.Popen(
        [sys.executable, "-m", "worker.inside.child", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **PROFILED},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stderr is not None
        log = child.stderr.read().decode()
        assert child.wait(60) == 0
    assert "result" in json.loads((tmp_path / "answer.json").read_text())
    assert "torch" in imported(log)
    assert imported(log) & COMPILER == set()
