"""Static files: style sheets, scripts and their licences, under the digest of their content, so that they may be kept.

All of them are in memory, as they are and compressed: together they have less than 200 KiB.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from service.api.responses import etag_matches
from service.registry.errors import NotFound
from service.web.paths import STATIC

router = APIRouter(include_in_schema=False)

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
        """Compress it."""
        digest = hashlib.sha256(content).hexdigest()[:16]
        return cls(content, gzip.compress(content, 9, mtime=0), digest, media_type)


@cache
def static_files() -> dict[str, StaticFile]:
    """All of them by name; the style of reports is that of the pages, too."""
    found = [*files("service.web").joinpath("static").iterdir(), *_styles_of_reports()]
    return {one.name: _read(one) for one in found if _suffix(one.name) in _MEDIA_TYPES}


def static_path(name: str) -> str:
    """The path of a file; raises KeyError for what is none."""
    return f"{STATIC}{static_files()[name].digest}/{name}"


@router.get("/static/{digest}/{name}")
def get_static_file(request: Request, digest: str, name: str) -> Response:
    """One file; what was asked for by another digest is of another release."""
    found = static_files().get(name)
    if found is None or found.digest != digest:
        raise NotFound("not_found", f"there is no file {name!r} of this digest; load the page again")
    return answer(request, found, cache=_FOREVER)


def answer(request: Request, file: StaticFile, *, cache: str) -> Response:
    """A file as it is or compressed, with its `ETag`; 304 where the client has it."""
    headers = {"Cache-Control": cache, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    headers["ETag"] = f'"{file.digest}"'
    if etag_matches(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, media_type=file.media_type, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _styles_of_reports() -> list[Traversable]:
    return [one for one in files("fedlas.report").joinpath("templates").iterdir() if one.name.endswith(".css")]


def _read(file: Traversable) -> StaticFile:
    return StaticFile.of(file.read_bytes(), _MEDIA_TYPES[_suffix(file.name)])


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2]}"
