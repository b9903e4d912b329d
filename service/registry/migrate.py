"""Migration of the tables with Alembic, from scripts that ship inside the package, and of what a pre-release stored.

Alembic, 11 MB in memory, is loaded only where the newest revision is not in place.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from service.registry.artifacts import ArtifactStore
from service.registry.backups import dump, seal
from service.registry.database import SCRIPTS, newest, revision

if TYPE_CHECKING:
    from alembic.config import Config

#: A migration may pause for longer than any other writer, who would keep the others waiting.
_IDLE_TIMEOUT_S = 60
#: Revisions of pre-releases: of 2026-11-27 and of 2026-11-28. `rewrite` reads them.
_PRE_RELEASES = ("0017", "0018")


def is_current(engine: Engine) -> bool:
    """Compare the revision of the database with the newest one."""
    return revision(engine) == newest()


def migrate(engine: Engine) -> None:
    """Upgrade to the newest revision; one process at a time, within one transaction.

    Raises SystemExit for a database of another line of revisions.
    """
    if (number := revision(engine)) in _PRE_RELEASES:
        cause = "a pre-release made it: stop everything, and run `fedlas migrate` once, which keeps a copy"
        raise SystemExit(f"this release cannot read the database (its revision is {number}): {cause}")
    with engine.execution_options(writes=True).begin() as connection:
        _upgrade(connection)


def rewrite(engine: Engine, artifacts: ArtifactStore, copy: Path) -> int:
    """Bring what a pre-release stored to this release's tables and words; returns the number of rewritten reports.

    Args:
        copy: the folder for a backup of the database and of the reports as they were, which undoes the rewrite.

    Raises:
        SystemExit: the database has no tables, or is of another line of revisions.
        BackupRefused: it cannot be dumped.
    """
    number = revision(engine)
    if number is None:
        raise SystemExit("nothing is migrated: the database has no tables")
    if number not in _PRE_RELEASES:
        migrate(engine)
        return 0
    aside = copy.with_name(f"{copy.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with engine.connect() as connection:
        dump(connection, aside)
    rewritten: list[str] = []
    with engine.execution_options(writes=True).begin() as connection:
        _upgrade(connection, artifacts=artifacts, copy=aside, rewritten=rewritten)
        seal(aside, number)
        shutil.rmtree(copy, ignore_errors=True)  # of a rewrite that was undone, or did not get through
        os.replace(aside, copy)
    return len(rewritten)


def _upgrade(connection: Connection, **handed: object) -> None:
    """Run what is missing of the migrations, which find `handed` in the attributes of Alembic's configuration."""
    from alembic import command
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":  # a busy machine takes seconds to load a script between statements
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'")
    config = alembic_config()
    config.attributes.update(handed, connection=connection)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        cause = "another version made it: use that one, or an empty data folder and database"
        raise SystemExit(f"this release cannot read the database ({error}): {cause}") from None


def alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config
