"""Migration of the tables with Alembic, from scripts that ship inside the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine

#: A migration may pause for longer than any other writer, who would keep the others waiting.
_IDLE_TIMEOUT_S = 60


def migrate(engine: Engine) -> None:
    """Upgrade to the newest revision; one process at a time, within one transaction.

    Raises SystemExit for a database of another line of revisions.
    """
    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":  # a busy machine takes seconds to load a script between statements
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S}s'")
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            cause = "another version made it: use that one, or an empty data folder and database"
            raise SystemExit(f"this release cannot read the database ({error}): {cause}") from None


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return config
