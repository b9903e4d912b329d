"""Reports, fetched: the typed document and the page for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlas.client._async.transport import AsyncTransport

if TYPE_CHECKING:
    from fedlas.client.reports import Report


async def report_at(transport: AsyncTransport, path: str) -> Report:
    """The report at this path."""
    from fedlas.client.reports import Report  # its sixty classes take longer than all the rest of the client

    response = await transport.request("GET", path)
    report = await transport.typed(response, Report)
    page = await transport.request("GET", f"{path}.html", headers={"Accept": "text/html"})
    return report.with_sources(response.content, page.text)
