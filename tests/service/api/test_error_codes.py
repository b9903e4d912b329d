"""The tables of codes: complete, as the sources that raise them say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.plumbing.error_codes import ERROR_CODES
from service.api.plumbing.problems import status_of
from service.api.plumbing.record_codes import RECORD_CODES
from service.registry import errors
from tests.helpers.documented import document

ROOT = Path(__file__).parents[3]

#: Errors of the service by the name of their class; their code is the first argument.
SERVICE = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
#: Those of the library and the worker, whose codes records show.
RECORDS = {
    *("UnsupportedModel", "BadDataset", "Mismatch", "PreconditionFailed", "ExportError", "FedLASError"),
    *("RecordError", "ChildError", "BadImage"),
}
#: Of objects in a notebook, which no record has.
NOTEBOOK = ("fedlas/conversion/", "fedlas/client/", "fedlas/cli/", "fedlas/sklearn.py", "fedlas/calibration/")


def raised(roots: tuple[str, ...], names: set[str]) -> Iterator[tuple[str, str, str]]:
    """Class, code and place of every error that is made with a code that is written there."""
    for root in roots:
        for path in sorted((ROOT / root).rglob("*.py")):
            place = str(path.relative_to(ROOT))
            if place.startswith(NOTEBOOK):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Call) and called in names:
                    given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "code")]
                    for part in (part for value in given for part in codes_in(value)):
                        yield called, part, f"{place}:{node.lineno}"


def codes_in(value: ast.expr) -> Iterator[str]:
    """The codes that an expression may be."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from codes_in(value.body)
        yield from codes_in(value.orelse)


def test_every_code_of_an_answer_is_in_the_table() -> None:
    """Each with the status that its error has."""
    found = list(raised(("service",), SERVICE))
    assert len(found) > 100
    for called, code, place in found:
        assert code in ERROR_CODES, f"{place}: {code} is missing in service/api/plumbing/error_codes.py"
        status = status_of(getattr(errors, called).__new__(getattr(errors, called)))
        known = (ERROR_CODES[code].status, *ERROR_CODES[code].also)
        assert status in known, f"{place}: {code} comes with {status}, the table says {known}"


def test_every_code_of_a_record_is_in_the_table() -> None:
    """Whatever the library or the worker says of a file, a job or a batch."""
    found = list(raised(("fedlas", "worker"), RECORDS))
    assert len(found) > 150
    missing = {code: place for _, code, place in found if code not in RECORD_CODES}
    assert missing == {}, "missing in service/api/plumbing/record_codes.py"


def test_no_code_is_idle() -> None:
    """Each code of the table stands in the sources, and is named by an operation or by the transport alone."""
    text = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py") if path.name != "error_codes.py")
    idle = [code for code in ERROR_CODES if f'"{code}"' not in text]
    derived = {code for code in idle if code.startswith(("unknown_", "invalid_")) or code.endswith("_unreachable")}
    assert set(idle) - derived == set()


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_code_says_what_to_do(code: str) -> None:
    """Two sentences: what has happened, and what to do."""
    known = ERROR_CODES[code]
    assert known.meaning.endswith(".")
    assert known.remedy.endswith(".")
    assert 400 <= known.status < 600


def test_operations_name_known_codes_at_their_status() -> None:
    """Under `/v1`; `/v2` has statuses of its own."""
    for path, item in document()["paths"].items():
        for operation in item.values():
            for status, response in operation["responses"].items():
                for code in response.get("x-error-codes", ()):
                    assert code in ERROR_CODES or code in RECORD_CODES
                    if code in ERROR_CODES and path.startswith("/v1") and code not in RECORD_CODES:
                        assert int(status) in (ERROR_CODES[code].status, *ERROR_CODES[code].also), (path, code)
