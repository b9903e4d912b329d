"""Storable text: every database stores it and every answer carries it; no NUL, no half of a surrogate pair.

PostgreSQL refuses NUL within text, and half a surrogate pair, which JSON can spell (`"\\ud800"`), is in no encoding: a
record that held one would break every list it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator


def objection(text: str) -> str | None:
    """Why this text cannot be kept, as the end of "it …"; None if it can.

    >>> objection("Zoë 🐈") is None, objection("a\\0b"), objection("\\ud800")
    (True, 'holds the character NUL (U+0000)', 'holds half of a surrogate pair (U+D800)')
    """
    if "\0" in text:
        return "holds the character NUL (U+0000)"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half of a surrogate pair (U+{ord(text[error.start]):04X})"
    return None


def texts(value: object) -> Iterator[str]:
    """Every text within a value that JSON can hold, names of members among them."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case dict() as members:
                waiting += [*members, *members.values()]
            case list() | tuple() as items:
                waiting += items


def objection_within(value: object) -> str | None:
    """Why some text within this value cannot be kept; None if all can."""
    return next((found for text in texts(value) if (found := objection(text)) is not None), None)
