"""The refusal that a test expects."""

from __future__ import annotations

from typing import TypeVar

import pytest

from fedlas.errors import FedLASError

Refusal = TypeVar("Refusal", bound=FedLASError)


def refusal(kind: type[Refusal], code: str, words: str | None = None) -> pytest.RaisesExc[Refusal]:
    """A block that must raise an error of this kind and code, whose message matches the words."""
    return pytest.raises(kind, match=words, check=lambda error: error.code == code)
