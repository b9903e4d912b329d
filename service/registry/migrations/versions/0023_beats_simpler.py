"""A column of jobs: the served model also beats every simpler one; `significant` is about the upload alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("beats_simpler", sa.Boolean(), nullable=True))
