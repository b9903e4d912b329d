"""`/settings`: what this service runs with, each setting with its environment variable; secrets are never shown."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from service.api.plumbing.services import ServicesDep
from service.registry.settings import ServiceSettings
from service.web.rendering import page, size

router = APIRouter(include_in_schema=False)

#: Keys, and addresses that may hold a password.
_SECRET = frozenset({"api_keys", "metrics_keys", "database_url", "broker_url"})


@dataclass(frozen=True)
class Setting:
    """A setting with its variable and its value in words; `is_set` where it is not the default."""

    variable: str
    value: str
    is_set: bool
    description: str

    @classmethod
    def all(cls, settings: ServiceSettings) -> Iterator[Setting]:
        for name, field in type(settings).model_fields.items():
            value, default = getattr(settings, name), field.get_default(call_default_factory=True)
            shown = "set" if name in _SECRET and value else _in_words(value)
            shown += f" ({size(value)})" if name.endswith("_bytes") and value else ""
            yield cls(f"FEDLAS_{name}".upper(), shown, value != default, field.description or "")


def _in_words(value: object) -> str:
    """A value as its variable would say it.

    >>> _in_words(None), _in_words(False), _in_words(frozenset({"b", "a"})), _in_words(1048576)
    ('not set', 'false', 'a, b', '1048576')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(map(str, value))) or "not set"
    return "not set" if value is None else str(value)


@router.get("/settings")
def show_settings(request: Request, services: ServicesDep) -> Response:
    settings = services.settings
    everything = [*Setting.all(settings)]
    return page(
        request,
        "operations/settings.html.jinja",
        settings=settings,
        system=f"Python {platform.python_version()} on {platform.system()}",
        database="PostgreSQL" if settings.resolved_database_url.startswith("postgresql") else "SQLite",
        broker="embedded" if str(settings.data_dir.absolute()) in settings.resolved_broker_url else "of its own",
        processes=services.served_models.processes(),
        given=[one for one in everything if one.is_set],
        defaults=[one for one in everything if not one.is_set],
    )
