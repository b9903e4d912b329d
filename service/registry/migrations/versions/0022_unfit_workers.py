"""The reason why a worker can open no upload, which it finds out at its start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    with op.batch_alter_table("workers") as workers:
        workers.add_column(sa.Column("unfit", sa.Text(), nullable=True))
