"""The service's checks of `fedlas doctor`: database, broker, stored files and wall, by the `FEDLAS_*` settings.

Nothing is made or changed: what `fedlas serve` would make when it first starts is named as such.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from pydantic import ValidationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from service.confinement import confinement
from service.processes import wall
from service.registry.database import open_engine
from service.registry.errors import Unavailable
from service.registry.migrate import is_current
from service.registry.settings import ServiceSettings, mistakes

_TIMEOUT_S = 3.0

Line = dict[str, str]


def check() -> Iterator[Line]:
    """The settings; if they make sense, database, broker, files and the wall."""
    try:
        settings = ServiceSettings()
    except ValidationError as error:
        for mistake in mistakes(error):
            yield _line("settings", "fail", str(mistake), f"correct or unset {mistake.variable or 'one of them'}")
        return
    yield database(settings)
    yield broker(settings)
    yield files(settings)
    yield from protections(settings)


def database(settings: ServiceSettings) -> Line:
    """The state of the database: it answers, and its tables are those of this version."""
    parsed = make_url(settings.resolved_database_url)
    shown = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return _line("database", "skip", f"{shown} is not there yet", "fedlas serve makes it")
    try:
        engine = open_engine(settings.resolved_database_url)
        current = is_current(engine)
        engine.dispose()
    except (OSError, SQLAlchemyError, Unavailable) as error:
        remedy = "correct FEDLAS_DATABASE_URL, or start the database"
        return _line("database", "fail", f"{shown}: {_first_line(error)}", remedy)
    if not current:
        told = f"{shown} answers, and its tables are of another version"
        return _line("database", "warn", told, "fedlas api prepares them")
    return _line("database", "ok", f"{shown} answers, and its tables are of this version")


def broker(settings: ServiceSettings) -> Line:
    url, given = settings.resolved_broker_url, settings.broker_url is not None
    if not given and not Path(url.removeprefix("redis+socket://")).exists():
        return _line("broker", "skip", "the embedded broker is not running here", "fedlas serve starts it")
    shown = _without_password(url)
    try:
        address = url.replace("redis+socket://", "unix://")
        with Redis.from_url(
            address, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        ) as client:
            client.ping()
    except AuthenticationError as error:
        return _line("broker", "fail", f"{shown}: {error}", "correct the password in FEDLAS_BROKER_URL")
    except (RedisError, OSError, ValueError) as error:
        return _line("broker", "fail", f"{shown}: {error}", "start the broker, or correct FEDLAS_BROKER_URL")
    return _line("broker", "ok", f"{shown} answers")


def files(settings: ServiceSettings) -> Line:
    """The state of stored files: their folder can be written to, or their bucket answers."""
    folder, bucket = settings.resolved_artifacts, settings.artifact_bucket
    where = folder if bucket is None else settings.artifacts
    try:
        if bucket is not None:
            from service.registry.s3 import Bucket  # boto3 is an extra

            with closing(Bucket(*bucket)) as opened:
                opened.clock()
        elif not folder.exists():
            return _line("files", "skip", f"{folder} is not there yet", "fedlas serve makes it")
        else:
            tempfile.TemporaryFile(dir=folder).close()
    except (ModuleNotFoundError, OSError, Unavailable, ValueError) as error:
        remedy = "correct FEDLAS_ARTIFACTS, AWS_* or who may write there; boto3 is in fedlas-service[s3]"
        return _line("files", "fail", f"{where}: {_first_line(error)}", remedy)
    return _line("files", "ok", f"{where} takes files")


def protections(settings: ServiceSettings) -> Iterator[Line]:
    """Controls between a process that runs models and everything else, tried as a serving process does it."""
    if not settings.walled:
        state = "predictions run in the process that holds keys and passwords (no wall)"
        yield _line("wall", "skip", state, "FEDLAS_WALL=preferred, unless all who upload are trusted")
        return
    folder = settings.data_dir.absolute()
    report = wall.trial(next(path for path in (folder, *folder.parents) if path.is_dir()))
    off = "fail" if settings.wall == "required" else "warn"
    yield from confinement.protections(report, wall.PROTECTIONS, wall.HARM, place="wall, ", off=off)


def _without_password(url: str) -> str:
    with suppress(ArgumentError, ValueError):
        return make_url(url).render_as_string(hide_password=True)
    return "FEDLAS_BROKER_URL"


def _first_line(error: BaseException) -> str:
    """The driver's words, without the statement and the link that SQLAlchemy adds."""
    cause = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ else error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]


def _line(name: str, status: str, state: str, remedy: str = "") -> Line:
    return {"name": name, "status": status, "found": state, "remedy": remedy}
