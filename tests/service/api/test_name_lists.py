"""Lists of names in a parameter: JSON or quoted as in csv, so that a name may hold a comma; everything else is 422."""

from __future__ import annotations

import pytest

from service.api.plumbing.options import parse_names
from service.registry.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat,dog", ["cat", "dog"]),
        (" cat , dog\n", ["cat", "dog"]),
        ('"cats, big",dog', ["cats, big", "dog"]),
        ('dog, "cats, ""big"""', ["dog", 'cats, "big"']),
        ('5" pipe,6" pipe', ['5" pipe', '6" pipe']),
        ('["cats, big", "dog"]', ["cats, big", "dog"]),
        (' ["0", 1]', ["0", "1"]),
        ("[a],[b]", ["[a]", "[b]"]),
        ('"cat,dog', ['"cat', "dog"]),
        ('"><b>,dog', ['"><b>', "dog"]),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    """Spaces around names do not count, and what has always been read is read as it was."""
    assert parse_names(text, "class_names") == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "two different"),
        ("cat", "two different"),
        ("cat,,dog", "non-empty"),
        ("cat,cat", "different"),
        ("cat\ndog", "one line"),
        ('["cat", "dog"', "JSON list"),
        ('["cat", true]', "True"),
        ('["cat", null]', "None"),
        ('["cat", ["dog"]]', "dog"),
        ('["cat", "d\\u0000g"]', "NUL"),
    ],
)
def test_no_names(text: str, words: str) -> None:
    """A code and the field, and what was found."""
    with pytest.raises(InvalidRequest) as caught:
        parse_names(text, "class_names")
    assert (caught.value.code, caught.value.field) == ("invalid_class_names", "class_names")
    assert words in caught.value.message
