"""Calibrators keep a report, its page and its diagram, as jobs do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_COLUMNS = ("report_sha256", "diagram_sha256", "page_sha256")


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("calibrators", sa.Column(column, sa.String(length=64), nullable=True))
        op.create_index(op.f(f"ix_calibrators_{column}"), "calibrators", [column], unique=False)


def downgrade() -> None:
    for column in _COLUMNS:
        op.drop_index(op.f(f"ix_calibrators_{column}"), table_name="calibrators")
        op.drop_column("calibrators", column)
