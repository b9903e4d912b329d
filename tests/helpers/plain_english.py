"""Plain English, kept by a rule: `python -m tests.helpers.plain_english` prints each breach and what to write instead.

Openings, constants one a line, words of the field, phrases in the texts of programs; the description of a flag may
begin with "Whether".
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise

from tests.helpers import Json
from tests.helpers.size import ROOT, tracked

DOCUMENTS = ("docs", "README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "service/api/document")
TEMPLATES = ("service/web/templates", "fedlas/report/templates")
FOR_USERS = ("README.md", "docs/tutorial", "docs/how-to", "docs/explanation", "docs/reference", *TEMPLATES)
OPENING = re.compile(r"(?:The same|What|Of|Those|Whether|Why|As|Which|That|Who|Its?|They|These|This)\b")
SUPERLATIVE = re.compile(r"_?(?:MOST|LEAST|LONGEST|LARGEST|FEWEST|SMALLEST)_")
MIN_DESCRIPTION_CHARS = 25
#: Words that stand on no page, each with what to write instead.
WORDS = {
    "promoted": "serves",
    "familiarity": "typicality",
    "meanings": "served entries",
    "rungs?": "round",
    "cooled": "tempered",
    "surprise": "NLL",
    "share of doubt": "uniform mix",
    "words of your own": "metadata",
    "told": "reported, known",
    "said": "says, states",
}
#: Sentences of another language's grammar, which users have met; also in the texts of programs.
PHRASES = {
    "needed (?:is|are)": "expected",
    "veto(?:es)? what|comes? before it in line": "failed the checks",
    "it waits for a worker": "Waiting for a worker",
    "reported and not claimed": "the score that the verdict rests on",
    "rarer or more common than it is": "gets the share of one class wrong",
    "points of chance": "points that chance explains",
    "is chosen here answers": "choose which version answers",
    "(?:may|might) be accepted by (?:itself|themselves)": "needs no review",
    "from which score on": "above which score",
}
WORDS_FOR_USERS = WORDS | PHRASES | {"permits?": "task", "leaders?": "the best", "ordered|orders": "created, request"}
WORDS_OF_CONTRACT = WORDS_FOR_USERS | dict.fromkeys(("nobody", "somebody", "whoever"), "the one who is meant")
#: A template's own language and tags; the texts in its expressions are visible.
_UNSEEN = re.compile(r"\{#.*?#\}|\{[%{].*?[%}]\}|<[^<>]*>", re.DOTALL)


def opening(text: str) -> Iterator[str]:
    """The breach of a text that opens with a pronoun or a relative clause."""
    if OPENING.match(text):
        yield f'"{text[:40]}": open with what the thing is, or what is true'


def wrong_words(text: str, words: dict[str, str]) -> Iterator[str]:
    """The breaches of a text by words that do not stand there; the name of a query's field is none."""
    for word, instead in words.items():
        yield from (f'"{one}": write {instead}' for one in re.findall(rf"\b(?:{word})\b(?!=)", text, re.IGNORECASE))


def in_source(source: str, *, with_constants: bool = True) -> Iterator[tuple[int, str]]:
    """The breaches of a module by line: docstrings, comments `#:`, descriptions and help of options, constants."""
    for number, (before, line) in enumerate(pairwise(["", *map(str.lstrip, source.splitlines())]), start=1):
        if line.startswith("#: ") and not before.startswith("#:"):
            yield from ((number, breach) for breach in opening(line.removeprefix("#: ")))
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings, which no user meets
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and with_constants and id(node) not in prose:
            yield from ((node.lineno, breach) for breach in wrong_words(node.value, PHRASES))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from ((node.body[0].lineno, breach) for breach in opening(ast.get_docstring(node) or ""))
        if isinstance(node, (ast.Module, ast.ClassDef)) and with_constants:
            yield from constants(node.body)
        if isinstance(node, ast.keyword) and node.arg in ("description", "help"):
            for text in (str(one.value) for one in ast.walk(node.value) if isinstance(one, ast.Constant)):
                flag = text.removeprefix("Whether")  # the contract knows which fields are flags
                yield from ((node.value.lineno, breach) for breach in (*opening(flag), *wrong_words(text, WORDS)))


def constants(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """The breaches of assigned constants: several in one statement, or the name of a limit that says no MAX or MIN."""
    for statement in body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            nodes = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            names = [node.id for node in nodes if isinstance(node.ctx, ast.Store) and node.id.isupper()]
            if len(names) > 1:
                yield statement.lineno, f"{', '.join(names)}: one constant a line"
            yield from ((statement.lineno, f"{one}: write MAX_ or MIN_") for one in names if SUPERLATIVE.match(one))


def in_contract(part: Json, place: str = "#") -> Iterator[tuple[str, str]]:
    """The breaches of the descriptions in an OpenAPI document by JSON pointer."""
    if isinstance(text := part.get("description"), str):
        is_flag = "boolean" in json.dumps([part.get(name) for name in ("type", "anyOf", "schema")])
        if len(text) < MIN_DESCRIPTION_CHARS:
            yield place, f'"{text}": say it in {MIN_DESCRIPTION_CHARS} characters or more'
        breaches = opening(text.removeprefix("Whether") if is_flag else text)
        yield from ((place, breach) for breach in (*breaches, *wrong_words(text, WORDS_OF_CONTRACT)))
    for name, value in part.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and name not in ("example", "examples", "x-codeSamples"):
                yield from in_contract(inner, f"{place}/{name}")


def in_page(page: str, words: dict[str, str]) -> Iterator[tuple[int, str]]:
    """The breaches of a document or of a template's visible text by line."""
    text = _UNSEEN.sub(lambda one: " ".join(re.findall(r'"[^"]*"|\n' if one[0][1] in "{%" else r"\n", one[0])), page)
    for number, line in enumerate(text.splitlines(), start=1):
        yield from ((number, breach) for breach in wrong_words(line, words))


def main() -> int:
    """Print every breach with its place; 1 where there is one."""
    found: list[tuple[str, int | str, str]] = []
    for file in (str(one.relative_to(ROOT)) for one in tracked(["*"], ".py")):
        source = (ROOT / file).read_text()
        found += [(file, *one) for one in in_source(source, with_constants=not file.startswith("tests/"))]
    for file in ("openapi/openapi.json", "openapi/openapi-v2.json"):
        found += [(file, *one) for one in in_contract(json.loads((ROOT / file).read_text()))]
    for file in (str(one.relative_to(ROOT)) for one in [*tracked(DOCUMENTS, ".md"), *tracked(TEMPLATES, ".jinja")]):
        words = WORDS_FOR_USERS if file.startswith(FOR_USERS) else WORDS
        found += [(file, *one) for one in in_page((ROOT / file).read_text(), words)]
    for file, place, breach in found:
        print(f"{file}:{place}: {breach}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
