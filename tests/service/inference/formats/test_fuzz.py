"""Bodies changed at random are read or refused: they neither crash the process nor raise anything else."""

from __future__ import annotations

import subprocess
import sys


def test_changed_bodies() -> None:
    """Two thousand of them, in a process of its own, in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "tests.service.inference.formats.fuzz"]
    done = subprocess.run([*command, "--count", "2000"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "2000 bodies, 0 failures" in done.stdout
    assert "'read'" in done.stdout
    assert "'invalid_npy'" in done.stdout
