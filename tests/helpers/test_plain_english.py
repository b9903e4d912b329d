"""The rule of plain English finds each kind of breach at its line, and leaves plain sentences alone."""

from __future__ import annotations

from tests.helpers.plain_english import WORDS, WORDS_FOR_USERS, in_contract, in_page, in_source

SOURCE = '''"""What a module is."""
LEAST_ROWS = 3
A, B = 1, 2
MAX_ROWS: int = 4
class Form:
    """The form of a page."""
    _LARGEST_BYTES = 5
    name: str = Field(description="Of the model.")
    ready: bool = Field(description="Whether the model answers.")
def told(): "These are told."
'''


def test_a_source_is_read_for_openings_and_constants() -> None:
    """Docstrings, comments, descriptions and constants have a line and a remedy; constants of tests are free."""
    found = dict(in_source(SOURCE + "#: Of names.\n#: They go on.\n"))
    assert sorted(found) == [1, 2, 3, 7, 8, 10, 11]
    assert found[1] == '"What a module is.": open with what the thing is, or what is true'
    assert found[2] == "LEAST_ROWS: write MAX_ or MIN_"
    assert found[3] == "A, B: one constant a line"
    assert sorted(dict(in_source(SOURCE, with_constants=False))) == [1, 8, 10]


def test_the_texts_of_a_program_are_read_for_phrases() -> None:
    """A sentence for users is one, also in parts; a docstring and a test are none."""
    source = 'def f(x):\n    """Needed is a file."""\n    return f"{x} is a folder, needed is a file"\n'
    assert dict(in_source(source)) == {3: '"needed is": write expected'}
    assert not list(in_source(source, with_constants=False))


def test_a_contract_is_read_by_its_descriptions() -> None:
    """A description is long enough and opens with a subject; a flag may begin with Whether, examples are free."""
    flag, text = {"type": "boolean"}, {"type": "string"}
    whether = {"description": "Whether the model answers at all."}
    fields = {"a": flag | whether, "b": text | whether, "c": {"description": "The name."}, "example": whether}
    found = list(in_contract({"description": "Nobody reads what is promoted here.", "properties": fields}))
    assert [place for place, _ in found] == ["#", "#", "#/properties/b", "#/properties/c"]
    assert found[:2] == [("#", '"promoted": write serves'), ("#", '"Nobody": write the one who is meant')]


def test_a_page_is_read_by_its_visible_text() -> None:
    """Texts in expressions are visible, identifiers, comments and tags are not; lines stay those of the file."""
    page = '{# told\n#}<p class="told">{{ told(x) }}</p>\n<a\nhref="?told=1">{{ label("Is told.") }} Orders</a>'
    assert list(in_page(page, WORDS)) == [(4, '"told": write reported, known')]
    assert [line for line, _ in in_page(page, WORDS_FOR_USERS)] == [4, 4]
