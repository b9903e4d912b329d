"""The examples run as they stand, and show what they promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_pytorch", "lightning_module", "transformers_trainer"])
def test_a_loss_drops_into_a_training_loop(name: str, tmp_path: Path) -> None:
    """A process of its own trains, calibrates and prints a lower NLL."""
    run = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    before, after = (float(value) for value in re.findall(r"(?:NLL|->) (\d\.\d+)", run.stdout))
    assert after < before
    assert "verdict: post_hoc" in run.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code cells run without Jupyter; the notebook is stored without outputs and leaves the files that it names."""
    notebook = json.loads((EXAMPLES / "three_lines.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), "three_lines.ipynb", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"calibrated.onnx", "report.html"}
    before, after = re.findall(r"(?:before|after): NLL (\d\.\d+)", capsys.readouterr().out)
    assert float(after) < float(before)
    assert names["result"].verdict == "post_hoc"  # type: ignore[attr-defined]
