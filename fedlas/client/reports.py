"""Reports as objects: typed, shown in notebooks, and saved as the server wrote them."""

from __future__ import annotations

import html
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from fedlas.client.errors import InvalidInput
from fedlas.client.transfers import receiving
from fedlas.client.transport import Transport
from fedlas.contract import report
from fedlas.contract.base import ANOTHER_VERSION


class Report(report.Report):
    """The report of a job or calibrator: what was done, and what the test rows say about it.

    `verdict`, `significant`, `summary`, `metrics.calibrated.nll.low`, … are typed; `.raw` is all of the JSON.
    """

    _json: bytes = PrivateAttr(b"")
    _html: str = PrivateAttr("")

    def with_sources(self, document: bytes, page: str) -> Report:
        """A report with the JSON that it was read from and its page, as the server wrote them."""
        self._json, self._html = document, page
        return self

    @property
    def html(self) -> str:
        """The page for people: one file without scripts or references."""
        return self._html

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it to a `.html` or `.json` file, as the suffix says; raises FileError."""
        return write_report(Path(path), self._json, self._html.encode())

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: read once more from what it was read from."""
        return _again, (self._json, self._html)

    def __str__(self) -> str:
        return "\n".join([f"verdict: {self.verdict}", *self.advice, *self.warnings])

    def _repr_html_(self) -> str:
        """In a frame of its own: the page's style stays within."""
        frame = 'style="width:100%;height:40em;border:1px solid #ccc" sandbox'
        return f'<iframe {frame} srcdoc="{html.escape(self._html)}"></iframe>'


def write_report(path: Path, document: bytes, page: bytes) -> Path:
    """Write one of both, as the suffix says; raises FileError."""
    contents = {".html": page, ".htm": page, ".json": document}
    if (content := contents.get(path.suffix.lower())) is None:
        raise InvalidInput("unknown_suffix", f"a report is saved as .html or .json; found {path.name!r}")
    with receiving(path) as file:
        file.write(content)
        file.keep()
    return path


def report_at(transport: Transport, path: str) -> Report:
    """The report at this path, and its page."""
    response = transport.request("GET", path)
    report = transport.typed(response, Report)
    page = transport.request("GET", f"{path}.html", headers={"Accept": "text/html"})
    return report.with_sources(response.content, page.text)


def _again(document: bytes, page: str) -> Report:
    return Report.model_validate_json(document, extra="allow", context=ANOTHER_VERSION).with_sources(document, page)
