"""The settings of the service: one that makes it unsafe ends a command in a line."""

from __future__ import annotations

import pytest

from service.cli import main
from service.registry.settings import ServiceSettings

LONG_ENOUGH = "0123456789abcdef" * 2


@pytest.mark.parametrize("command", ["serve", "api"])
@pytest.mark.parametrize("keys", [LONG_ENOUGH[1:], f"{LONG_ENOUGH}, secret,{LONG_ENOUGH}"])
def test_a_key_that_can_be_guessed_is_refused(
    command: str, keys: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line names the variable, how long the shortest key is and how long it has to be, and no key."""
    monkeypatch.setenv("FEDLAS_API_KEYS", keys)
    monkeypatch.setenv("FEDLAS_PORT", "-1")  # a test that fails starts no service either
    assert main([command]) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if "FEDLAS_PORT" not in line)
    found = 31 if keys == LONG_ENOUGH[1:] else 6
    assert line.startswith(f"fedlas: FEDLAS_API_KEYS: a key has {found} characters; expected 32 or more")
    assert LONG_ENOUGH[1:] not in line
    assert "secret" not in line


def test_keys_that_are_long_enough_are_taken() -> None:
    """Thirty-two characters are enough, and no key at all is none that is too short."""
    assert ServiceSettings(api_keys=f" {LONG_ENOUGH} ,").api_keys == {LONG_ENOUGH}
    assert ServiceSettings(api_keys="").api_keys == frozenset()
