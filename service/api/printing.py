"""Text of a client in answers and logs."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text as an answer may show it: what cannot be printed is written as an escape."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
