"""The torch-free parts of the library stay so."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["data", "calibrators", "calibrators.feature_map", "gate", "race.results", "race.selection", "report"]
)
def test_no_torch_is_loaded(module: str) -> None:
    """Importing the module in a fresh interpreter does not load PyTorch."""
    code = f"import sys, fedlas.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
