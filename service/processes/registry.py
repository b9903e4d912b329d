"""The registry as a process finds it at its start: where it lies, and whether it can be reached."""

from __future__ import annotations

import logging
import time

from sqlalchemy import make_url

from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.settings import ServiceSettings

_LOG = logging.getLogger("fedlas.api")


def say_where(settings: ServiceSettings) -> None:
    """Log where everything lies that must survive, and who may connect."""
    database = make_url(settings.resolved_database_url).set(query={}).render_as_string(hide_password=True)
    files = settings.artifacts or settings.resolved_artifacts
    _LOG.info("data folder %s, database %s, stored files %s", settings.data_dir.absolute(), database, files)
    if not settings.api_keys:
        asked = "" if settings.listen_host == settings.host else f", and not on {settings.host} as it was told"
        _LOG.warning(
            "no keys are configured (FEDLAS_API_KEYS): whoever works on this machine may use the service; "
            "it listens on %s only%s",
            settings.listen_host,
            asked,
        )


def await_database(settings: ServiceSettings) -> None:
    """Migrate the database as soon as it can be reached; a signal ends the wait."""
    registry = Registry.open(settings)
    while True:
        try:
            registry.migrate()
            break
        except Unavailable as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            _LOG.warning("waiting for the database: %s", reason)
            time.sleep(1.0)
    registry.close()
