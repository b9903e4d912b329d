"""Navigation: the sections that every page links to."""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """A section by its title and path."""

    title: str
    path: str


_SECTIONS = (
    Section("Start", "/"),
    Section("Jobs", "/jobs"),
    Section("Models", "/models"),
    Section("Names", "/names"),
    Section("Datasets", "/datasets"),
    Section("Operations", "/operations"),
)


def sections() -> tuple[Section, ...]:
    """All, in the order in which they are shown."""
    return _SECTIONS


def current_section(path: str) -> str | None:
    """The path of the section that a page belongs to.

    >>> current_section("/jobs/job_1"), current_section("/new"), current_section("/sign-in")
    ('/jobs', '/', None)
    """
    first = f"/{path.split('/', 2)[1]}"
    first = "/" if first == "/new" else first
    return next((section.path for section in _SECTIONS if section.path == first), None)
