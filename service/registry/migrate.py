"""Migration of the tables with Alembic, from scripts that ship inside the package.

Alembic, 11 MB in memory, is loaded only where the newest revision is not in place.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config

#: Alembic's.
_TABLE = "alembic_version"
_SCRIPTS = Path(__file__).with_name("migrations")
#: A migration may pause for longer than any other writer, who would keep the others waiting.
_IDLE_TIMEOUT_S = 60


def is_current(engine: Engine) -> bool:
    """Compare the revision of the database with the newest one."""
    found = text(f"SELECT version_num FROM {_TABLE}")
    with engine.connect() as connection:
        return inspect(connection).has_table(_TABLE) and list(connection.scalars(found)) == [newest()]


@cache
def newest() -> str:
    """The revision of the last migration, whose file's name begins with it."""
    return max(path.name for path in _SCRIPTS.glob("versions/[0-9]*.py")).partition("_")[0]


def migrate(engine: Engine) -> None:
    """Upgrade to the newest revision; one process at a time, within one transaction.

    Raises SystemExit for a database of another line of revisions.
    """
    from alembic import command
    from alembic.util import CommandError

    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":  # a busy machine takes seconds to load a script between statements
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'")
        config = alembic_config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            cause = "another version made it: use that one, or an empty data folder and database"
            raise SystemExit(f"this release cannot read the database ({error}): {cause}") from None


def alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config
