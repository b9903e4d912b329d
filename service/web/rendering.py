"""Rendering: templates in, HTML out, with the headers of every page, and the static files beside them.

Jinja escapes all text, and the content security policy lets nothing run or load but our own files: names of models,
classes and slices are their sender's. Style sheets, scripts and their licences lie under the digest of their content,
so that they may be kept; all of them are in memory, as they are and compressed: together they have less than 200 KiB.
"""

from __future__ import annotations

import gzip
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from fedlas.contract.error_codes import ERROR_CODES
from fedlas.contract.problems import Problem
from fedlas.report import page as report_page
from service.api.plumbing.responses import etag_matches
from service.http.access import GRANT
from service.registry.errors import NotFound
from service.web.job_words import verdict_of
from service.web.sessions import STATIC, session_id_of

router = APIRouter(include_in_schema=False)

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
_SECTIONS = {
    "/": "Start",
    "/jobs": "Jobs",
    "/models": "Models",
    "/names": "Names",
    "/datasets": "Datasets",
    "/batches": "Batches",
    "/calibrators": "Calibrators",
    "/operations": "Operations",
}


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

    It knows the path, its section, what the key grants, and whether there is a session to end.

    Args:
        refused: why the API has refused what the page's form asked for; shown by `refusal` of the components.
        status: by default that of `refused`, else 200.
    """
    path = request.url.path
    known = {
        "path": path,
        "section": current_section(path),
        "has_session": bool(session_id_of(request.scope)),
        "grant": request.scope.get(GRANT),
        "refused": refused,
    }
    content = environment().get_template(template).render(**known, **context).encode()
    status = status or (200 if refused is None else refused.status)
    sent = {**_HEADERS, **(headers or {})}
    if len(content) >= _COMPRESSED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        content, sent["Content-Encoding"] = gzip.compress(content, 5), "gzip"
    return HTMLResponse(content, status, sent)


def see_other(path: str) -> RedirectResponse:
    """The answer to a form that has done its work: look there."""
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


@cache
def environment() -> Environment:
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
        "navigation": _SECTIONS,
        "static": static_path,
        "error_codes": ERROR_CODES,
        "remedy_of": remedy_of,
        "form_key": partial(secrets.token_hex, 8),
        "release": version("fedlas"),
        "verdict_of": verdict_of,
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


def current_section(path: str) -> str | None:
    """The path of the section that a page belongs to.

    >>> current_section("/jobs/job_1"), current_section("/new"), current_section("/sign-in")
    ('/jobs', '/', None)
    """
    first = f"/{path.split('/', 2)[1]}"
    first = {"/new": "/", "/settings": "/operations"}.get(first, first)
    return first if first in _SECTIONS else None


_LATER = "Try again in a moment; nothing was changed."

_ON_PAGES = {
    "unauthorized": "Enter a key of this service.",
    "forbidden": "Sign out, and enter a key with that scope.",
    "not_found": "The sections above lead to all there is.",
    "method_not_allowed": "Open the page that this address belongs to.",
    **dict.fromkeys(
        ("unknown_model", "unknown_dataset", "unknown_job", "unknown_calibrator", "unknown_prediction"),
        "It may have been deleted by somebody else. The list has all there are.",
    ),
    "unknown_key": "It was revoked before.",
    "unknown_name": "The list of names has all that are published.",
    "unknown_version": "The page of the name lists its versions.",
    "unknown_results_part": "The manifest of the results lists their parts.",
    "unknown_delivery": "The page of the job lists its messages.",
    "unknown_upload": "Choose the file again; the upload begins anew.",
    "invalid_cursor": "Open the list from its beginning.",
    "offset_mismatch": "Choose the file again; the upload goes on where it stands.",
    "upload_stalled": "Choose the file again; what came is kept.",
    "idempotency_key_in_flight": _LATER,
    "internal_error": "Tell the operator, with the id of the request that stands below.",
    "model_not_ready": "The model's page says what inspection is at, or why it was rejected.",
    "provenance_needed": "Say on the page of the new job which rows the model has seen.",
    "unlabelled_dataset": "Choose a dataset with labels.",
    "wrong_inputs": "The model's page lists its inputs.",
    "unknown_output": "The model's page lists its outputs.",
    "model_unloaded": "The operator can put it back into service.",
    **dict.fromkeys(
        ("not_finished", "no_report", "no_results", "no_calibrator"), "Wait until it has ended, then do this again."
    ),
    **dict.fromkeys(
        ("model_cannot_be_opened", "storage_unavailable", "artifact_damaged"),
        "Tell the operator; the page of operations names what cannot be reached.",
    ),
    **dict.fromkeys(
        (
            *("too_many_connections", "overloaded", "upload_busy", "delivery_running"),
            *("model_suspended", "database_unavailable", "unavailable"),
        ),
        _LATER,
    ),
}


def remedy_of(code: str) -> str | None:
    """Remedy as one sentence; None where what was found says it already.

    >>> remedy_of("too_few_test_rows"), remedy_of("wrong_shape")
    (None, None)
    >>> remedy_of("database_unavailable")
    'Try again in a moment; nothing was changed.'
    """
    if code in _ON_PAGES:
        return _ON_PAGES[code]
    known = ERROR_CODES.get(code)
    # A page shows `detail` and `errors` of the API's answer anyway.
    return None if known is None or "`detail`" in known.remedy or "`errors`" in known.remedy else known.remedy


_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class StaticFile:
    """One file, as it is and compressed."""

    content: bytes
    compressed: bytes
    digest: str
    media_type: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> StaticFile:
        return cls(content, gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:16], media_type)


@cache
def static_files() -> dict[str, StaticFile]:
    """All of them by name; the style of reports is that of the pages, too."""
    by_name = {}
    for folder in (files("service.web").joinpath("static"), files("fedlas.report").joinpath("templates")):
        for file in folder.iterdir():
            if media_type := _MEDIA_TYPES.get(PurePath(file.name).suffix):
                by_name[file.name] = StaticFile.of(file.read_bytes(), media_type)
    return by_name


def static_path(name: str) -> str:
    """The path of a file; raises KeyError for what is none."""
    return f"{STATIC}{static_files()[name].digest}/{name}"


@router.get("/static/{digest}/{name}")
def get_static_file(request: Request, digest: str, name: str) -> Response:
    file = static_files().get(name)
    if file is None or file.digest != digest:
        raise NotFound("not_found", f"there is no file {name!r} of this digest; load the page again")
    return answer(request, file, cache=_FOREVER)


def answer(request: Request, file: StaticFile, *, cache: str) -> Response:
    """A file as it is or compressed, with its `ETag`; 304 where the client has it."""
    etag = f'"{file.digest}"'
    headers = {"Cache-Control": cache, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff", "ETag": etag}
    if etag_matches(request, etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, media_type=file.media_type, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
