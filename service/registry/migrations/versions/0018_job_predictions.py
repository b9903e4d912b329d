"""The file of what a job's served model answers on the test rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("predictions_sha256", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_jobs_predictions_sha256"), "jobs", ["predictions_sha256"], unique=False)
