"""Changes of what is served, numbered: processes that write the served folder follow them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_table(
        "served_changes",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("called", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_served_changes")),
    )
