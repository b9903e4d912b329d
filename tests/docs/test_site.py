"""The documents as a site: built strictly, and complete without another host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_other_host(tmp_path: Path) -> None:
    """Every page and anchor exists, commands and error codes are filled in, and nothing is loaded from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert built.returncode == 0, built.stderr
    pages = {str(page.relative_to(tmp_path / "site")): page.read_text() for page in tmp_path.rglob("*.html")}
    assert "fedlas jobs watch" in pages["reference/cli.html"]
    assert "unknown_model" in pages["reference/errors.html"]
    assert "max_error_unreachable" in pages["reference/errors-of-predictions.html"]
    assert "grows_faster_than_rows" in pages["reference/errors-of-records.html"]
    assert 'id="fedlas.losses.FedLASPlusLoss"' in pages["reference/library.html"]
    assert [name for name, text in pages.items() if name.startswith("reference/") and "/generated --" in text] == []
    loaded = r'<(?:script|img|iframe)[^>]*src="https?:[^"]*"|<link[^>]*rel="stylesheet"[^>]*href="https?:[^"]*"'
    assert {name: re.findall(loaded, text) for name, text in pages.items() if re.search(loaded, text)} == {}
