"""Batches tell how many rows have an error in place of an answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("batches", sa.Column("num_errors", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "num_errors")
