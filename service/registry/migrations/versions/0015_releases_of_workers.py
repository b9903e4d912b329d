"""Workers say which release they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("workers", sa.Column("release", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "release")
