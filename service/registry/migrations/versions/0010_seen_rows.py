"""Models know the rows that jobs trained them on: a file of digests, and the key that they are under."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("models", sa.Column("seen_rows_sha256", sa.String(length=64), nullable=True))
    op.add_column("models", sa.Column("seen_rows_key", sa.String(length=32), nullable=True))
    op.create_index(op.f("ix_models_seen_rows_sha256"), "models", ["seen_rows_sha256"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_models_seen_rows_sha256"), table_name="models")
    op.drop_column("models", "seen_rows_key")
    op.drop_column("models", "seen_rows_sha256")
