"""The size of the project, counted and held under the budget of `.size`: `python -m tests.helpers.size`.

A line of `.size` is a name, the most that is allowed, and what it counts. Seconds are measured by hand and only
written down there. Statements are those of `ast`, docstrings and migrations apart.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("fedlas", "service", "worker")
MIGRATIONS = "service/registry/migrations/versions/"
#: Pages that are written by hand; the changelog grows by nature, and lists of names are made of the code.
DOCUMENTS = ("docs", "README.md", "CONTRIBUTING.md", "SECURITY.md", ":!docs/reference")


def measured() -> dict[str, int]:
    """Each figure of the budget that can be counted, by its name."""
    product = [file for file in tracked(PRODUCT, ".py") if not file.is_relative_to(ROOT / MIGRATIONS)]
    return {
        "product_statements": sum(statements(file.read_text()) for file in product),
        "product_files": len(product),
        "test_and_benchmark_lines": lines(tracked(("tests", "benchmarks"), ".py")),
        "document_words": words(tracked(DOCUMENTS, ".md")),
        "benchmark_page_words": words([ROOT / "benchmarks" / "README.md"]),
    }


def tracked(places: Iterable[str], suffix: str) -> list[Path]:
    """Files of git below these places, those that are there."""
    listed = subprocess.run(["git", "ls-files", "-z", *places], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name.endswith(suffix) and (ROOT / name).exists()]


def statements(source: str) -> int:
    """Statements of a module, docstrings apart."""
    nodes = list(ast.walk(ast.parse(source)))
    documented = [
        node for node in nodes if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    docstrings = sum(ast.get_docstring(node, clean=False) is not None for node in documented)
    return sum(isinstance(node, ast.stmt) for node in nodes) - docstrings


def lines(files: Iterable[Path]) -> int:
    """Lines of files together."""
    return sum(len(file.read_text().splitlines()) for file in files)


def words(files: Iterable[Path]) -> int:
    """Words of files together, the lines of tables apart."""
    return sum(any(map(str.isalnum, word)) for file in files for word in file.read_text().split())


def budget() -> dict[str, int]:
    """The most that is allowed, by name."""
    rows = [line.split() for line in (ROOT / ".size").read_text().splitlines() if line and not line.startswith("#")]
    return {row[0]: int(row[1]) for row in rows}


def main() -> int:
    """Print each figure beside its budget; 1 where one is above it."""
    allowed, over = budget(), False
    for name, count in measured().items():
        over |= count > allowed[name]
        print(f"{name}: {count:,} of {allowed[name]:,}{' TOO MANY' if count > allowed[name] else ''}")
    if over:
        print("Delete or merge; or say in a decision record of ten lines why the project must grow, and raise `.size`.")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
