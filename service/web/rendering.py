"""Rendering: templates in, HTML out, with the headers of every page.

Jinja escapes all text, and the content security policy lets nothing run or load but our own files: names of models,
classes and slices are their sender's.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from fedlas.report import page as report_page
from service.api.error_codes import ERROR_CODES
from service.api.problems import Problem
from service.web.form_keys import new_form_key
from service.web.navigation import current_section, sections
from service.web.remedies import remedy_of
from service.web.session_access import session_id_of
from service.web.static_files import static_path

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without a referrer browsers would hide the origin of forms, too
    "Cache-Control": "private, no-cache",
    "Vary": "Accept-Encoding, Cookie",
}
#: Below so many bytes compression gains nothing.
_COMPRESSED_FROM = 1_000
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def page(
    request: Request,
    template: str,
    *,
    status: int | None = None,
    refused: Problem | None = None,
    headers: Mapping[str, str] | None = None,
    **context: object,
) -> HTMLResponse:
    """The answer that a template of `service/web/templates` gives; a fragment is a template that extends none.

    Args:
        refused: why the API has refused what the page's form asked for; shown by `refusal` of the components.
        status: that of `refused`, else 200, unless told otherwise.
    """
    content = render(request, template, refused=refused, **context).encode()
    status = status or (200 if refused is None else refused.status)
    sent = {**_HEADERS, **(headers or {})}
    if len(content) >= _COMPRESSED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        content, sent["Content-Encoding"] = gzip.compress(content, 5), "gzip"
    return HTMLResponse(content, status, sent)


def render(request: Request, template: str, **context: object) -> str:
    """The text of a template, which knows the request, its section and whether there is a session to end."""
    known = {
        "path": request.url.path,
        "section": current_section(request.url.path),
        "has_session": bool(session_id_of(request.scope)),
    }
    return environment().get_template(template).render(**known, **context)


def see_other(path: str) -> RedirectResponse:
    """The answer to a form that has done its work: look there."""
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


@cache
def environment() -> Environment:
    """The templates of the pages, and beside them those of reports."""
    made = report_page.environment().overlay(
        loader=ChoiceLoader([PackageLoader("service.web"), PackageLoader("fedlas.report")])
    )
    made.filters = {
        **made.filters,
        "moment": moment,
        "size": size,
        "duration": duration,
        "count": count,
        "with_code": with_code,
    }
    made.globals = {
        **made.globals,
        "sections": sections(),
        "static": static_path,
        "error_codes": ERROR_CODES,
        "remedy_of": remedy_of,
        "form_key": new_form_key,
        "release": version("fedlas"),
    }
    return made


def moment(value: datetime | None, seconds: bool = False) -> str | Markup:
    """A time; in UTC, until the page's script writes it in the reader's zone.

    >>> moment(datetime(2026, 11, 27, 5, 0, tzinfo=UTC))
    Markup('<time datetime="2026-11-27T05:00:00Z">2026-11-27 05:00 UTC</time>')
    """
    if value is None:
        return "–"
    at = value.astimezone(UTC)
    exact, shown = (Markup(" data-seconds"), f"{at:%Y-%m-%d %H:%M:%S}") if seconds else ("", f"{at:%Y-%m-%d %H:%M}")
    return Markup('<time datetime="{}"{}>{} UTC</time>').format(f"{at:%Y-%m-%dT%H:%M:%SZ}", exact, shown)


def size(num_bytes: float | None) -> str:
    """Bytes as people read them.

    >>> size(999), size(1_234_567), size(None)
    ('999 bytes', '1.2 MB', '–')
    """
    if num_bytes is None:
        return "–"
    unit = 0
    while num_bytes >= 1000 and unit < len(_UNITS) - 1:
        num_bytes, unit = num_bytes / 1000, unit + 1
    return f"{num_bytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{num_bytes:.1f} {_UNITS[unit]}"


def with_code(text: str) -> Markup:
    """A text in which names are put between backticks.

    >>> with_code("Wait, then ask `GET /<id>` again.")
    Markup('Wait, then ask <code>GET /&lt;id&gt;</code> again.')
    """
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things.

    >>> count(1, "row"), count(1234, "row"), count(2, "class", "classes")
    ('1 row', '1,234 rows', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """A duration, as roughly as it is known.

    >>> [duration(one) for one in (0.4, 50, 100, 5400, 200_000)]
    ['a moment', '50 seconds', '2 minutes', '1.5 hours', '2.3 days']
    """
    if seconds < 1.5:
        return "a moment"
    for longest, divisor, noun in ((90, 1, "second"), (5400, 60, "minute"), (129_600, 3600, "hour")):
        if seconds < longest:
            number = round(seconds / divisor, 1 if noun == "hour" else 0)
            return f"{number:g} {noun}{'' if number == 1 else 's'}"
    return f"{seconds / 86_400:.1f} days"
