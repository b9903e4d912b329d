"""The tables of the pre-release of 2026-11-28, made of those of the day before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Change a database that has tables."""
    if not sa.inspect(op.get_bind()).has_table("jobs"):
        return
    op.execute("ALTER TABLE jobs ADD COLUMN predictions_sha256 VARCHAR(64)")
    op.execute("CREATE INDEX ix_jobs_predictions_sha256 ON jobs (predictions_sha256)")
    op.execute("ALTER TABLE work DROP COLUMN requires")
