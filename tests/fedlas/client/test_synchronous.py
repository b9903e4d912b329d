"""The synchronous client is the asynchronous one, without its awaiting."""

from __future__ import annotations

import ast

from tests.helpers import synchronous


def test_the_clients_are_in_step() -> None:
    """`fedlas/client/_sync` is what `python -m tests.helpers.synchronous` writes, and nothing more."""
    made = synchronous.made()
    assert {path: path.read_text() for path in synchronous.SYNC.glob("*.py")} == made


def test_nothing_awaits() -> None:
    """No synchronous module has a word of the other left."""
    for path, content in synchronous.made().items():
        kinds = {type(node).__name__ for node in ast.walk(ast.parse(content))}
        assert not {kind for kind in kinds if kind.startswith(("Async", "Await"))}, path
        assert "_async" not in content.replace("fedlas/client/_async", ""), path
