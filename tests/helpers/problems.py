"""Checks of problem documents, the form that every error of the API has."""

from __future__ import annotations

from typing import Any

from tests.helpers import Json


def problem(answer: Any, status: int, code: str | None = None) -> Json:
    """Check the form that every error has, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    body: Json = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(body)
    assert body["status"] == status
    assert code in (None, body["code"]), body
    return body


def fields(answer: Any) -> set[str]:
    """The fields that a 422 names."""
    return {error["field"] for error in problem(answer, 422)["errors"]}
