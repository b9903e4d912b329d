"""Jobs and batches are found by when they ended, and those that are kept no longer are deleted."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"], unique=False)
    op.create_index("ix_batches_finished_at", "batches", ["finished_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_batches_finished_at", table_name="batches")
    op.drop_index("ix_jobs_finished_at", table_name="jobs")
