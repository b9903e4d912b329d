"""Builds HTML in which nothing is markup unless this module made it: text from strangers is always escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"

_VOID = {"meta", "br"}


def element(name: str, /, *content: Content, **attributes: str) -> Markup:
    """An element; a trailing underscore of an attribute's name is dropped, other underscores become hyphens.

    >>> element("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{pairs}>")
    return Markup(f"<{name}{pairs}>{join(content)}</{name}>")


def join(content: Content) -> Markup:
    """Texts and elements one after the other; None is nothing."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(content))
    return Markup("".join(join(part) for part in content))


def table(headings: Sequence[Content], rows: Iterable[Sequence[Content]], *, numbers_from: int = 1) -> Markup:
    """A table that scrolls by itself where the page is narrow; columns from `numbers_from` are set as numbers."""

    def kind(i: int) -> str:
        return "number" if i >= numbers_from else "words"

    head = element("tr", [element("th", heading, class_=kind(i), scope="col") for i, heading in enumerate(headings)])
    body = [element("tr", [element("td", cell, class_=kind(i)) for i, cell in enumerate(row)]) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", body)), class_="scroll")


def listed(sentences: Iterable[Content]) -> Markup:
    return element("ul", [element("li", sentence) for sentence in sentences])


def section(title: str, *content: Content, name: str) -> Markup:
    return element("section", element("h2", title), *content, id=name)
