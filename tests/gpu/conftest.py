"""Tests that need a card: all skipped with the reason where there is none, else one table of figures at their end.

They need PyTorch, ONNX Runtime, pytest and this checkout; each skips, with its name, what else is missing.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# cuBLAS reads it once; without it sums depend on streams.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch = pytest.importorskip("torch")

#: Where the table is left, beside the terminal.
TABLE = Path(os.environ.get("FEDLAS_GPU_TABLE", "gpu.md"))
_rows: list[tuple[str, str, str]] = []


def missing_card() -> str:
    """The reason for which no test can run on a card here; empty where they can."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return "; ".join(str(warning.message).strip() for warning in said) or "PyTorch finds no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them all where there is no card: the reason is said with each."""
    if reason := missing_card():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Note a figure for the table: what, how much, and the goal."""

    def note(what: str, value: str, goal: str = "") -> None:
        _rows.append((what, value, goal))

    return note


@pytest.fixture
def card() -> Iterator[torch.device]:
    """The card, with nothing of an earlier test in its memory."""
    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()
    yield device
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A row for every test that ran, with its seconds."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        _rows.append((item.name, report.outcome, f"{report.duration:.1f} s"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table and leave it in a file; nothing where nothing ran."""
    if not _rows:
        return
    card, (major, minor) = torch.cuda.get_device_properties(0), torch.cuda.get_device_capability(0)
    machine = (
        f"{card.name}, {card.total_memory / 1024**3:.0f} GiB, compute capability {major}.{minor}; "
        f"PyTorch {torch.__version__} with CUDA {torch.version.cuda}; Python {platform.python_version()}"
    )
    lines = [machine, "", "| what | result | goal or seconds |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows]
    TABLE.write_text("\n".join([*lines, ""]))
    terminalreporter.write_line("\n".join(["", *lines, f"(written to {TABLE.resolve()})"]))
