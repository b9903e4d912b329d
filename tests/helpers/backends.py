"""Backends of the tests, chosen by `FEDLAS_TEST_BACKENDS`: where one service keeps records, messages and files.

`embedded`, the default: an SQLite file, the Valkey of `fedlas serve`, a folder. `servers`: PostgreSQL, Redis and an S3,
started once per test process, with a database and a bucket for every test; where a program is missing, this fails.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.registry import database
from service.registry.database import open_engine
from service.registry.migrate import migrate
from tests.helpers.object_store import ObjectServer
from tests.helpers.servers import PostgreSQL, Redis, running

VARIABLE = "FEDLAS_TEST_BACKENDS"
_TEMPLATE = "template_fedlas"


def chosen() -> str:
    """`embedded` or `servers`."""
    word = os.environ.get(VARIABLE, "embedded")
    assert word in ("embedded", "servers"), f"{VARIABLE} is {word!r}, not embedded or servers"
    return word


@contextmanager
def place(data_dir: Path, *, migrated: bool = True) -> Iterator[dict[str, Any]]:
    """Arguments of any settings object, for one test alone; `migrated=False` has no tables, all is gone afterwards."""
    nothing = {"data_dir": data_dir, "database_url": None, "broker_url": None, "artifacts": None}
    if chosen() == "embedded":
        if migrated:
            data_dir.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_migrated_file(), data_dir / "registry.sqlite")
        yield nothing
        return
    servers = _servers()
    with servers.database(migrated=migrated) as database_url:
        ours = {"database_url": database_url, "broker_url": servers.broker_url(), "artifacts": servers.artifacts()}
        yield {**nothing, **ours}


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings as environment variables of a process."""
    return {f"FEDLAS_{name.upper()}": str(value) for name, value in settings.items() if value is not None}


class _Servers:
    """A PostgreSQL, a Redis and an S3 that tests share; each gets a database, or a bucket, of its own in them."""

    def __init__(self, stack: ExitStack) -> None:
        self._postgresql = stack.enter_context(running(PostgreSQL))
        self._redis = stack.enter_context(running(Redis))
        self._objects = ObjectServer()
        stack.callback(self._objects.stop)
        # Where the bucket is and who may come in is told to its library by the environment, here and in processes.
        os.environ.update(self._objects.environment)
        self._numbers = itertools.count()
        database._IDLE_TIMEOUT_S = 60  # a machine that stands still for seconds ends no writer of a test
        self._postgresql.execute(f"CREATE DATABASE {_TEMPLATE}")
        engine = open_engine(self._postgresql.url(_TEMPLATE))
        migrate(engine)
        engine.dispose()

    @contextmanager
    def database(self, *, migrated: bool) -> Iterator[str]:
        """The URL of a fresh database: a copy of a migrated one takes a tenth of the time of migrating."""
        name = f"fedlas_{next(self._numbers)}"
        self._postgresql.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if migrated else 'template1'}")
        try:
            yield self._postgresql.url(name)
        finally:
            self._postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def broker_url(self) -> str:
        """The URL of an empty broker."""
        return self._redis.url(next(self._numbers))

    def artifacts(self) -> str:
        """An empty bucket."""
        return f"s3://{self._objects.new_bucket()}"


_stack = ExitStack()


@cache
def _migrated_file() -> Path:
    """An SQLite file with all tables: to copy it takes a fifth of the time of migrating."""
    folder = Path(_stack.enter_context(TemporaryDirectory(prefix="fedlas-template-")))
    engine = open_engine(f"sqlite:///{folder / 'registry.sqlite'}")
    migrate(engine)
    engine.dispose()
    return folder / "registry.sqlite"


@cache
def _servers() -> _Servers:
    """Started when the first test asks."""
    return _Servers(_stack)


def close() -> None:
    """Stop what was started, at the end of the tests; without a call, Python's exit does."""
    _stack.close()
    _servers.cache_clear()
    _migrated_file.cache_clear()


atexit.register(close)
