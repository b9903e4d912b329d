# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""Reports, fetched: the typed document and the page for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlas.client._sync.transport import Transport

if TYPE_CHECKING:
    from fedlas.client.reports import Report


def report_at(transport: Transport, path: str) -> Report:
    """The report at this path."""
    from fedlas.client.reports import Report  # its sixty classes take longer than all the rest of the client

    response = transport.request("GET", path)
    report = transport.typed(response, Report)
    page = transport.request("GET", f"{path}.html", headers={"Accept": "text/html"})
    return report.with_sources(response.content, page.text)
