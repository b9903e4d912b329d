"""Calibrators from scores, the ledger of looks at test rows, and the report as a page."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("page_sha256", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_jobs_page_sha256"), "jobs", ["page_sha256"], unique=False)
    op.create_table(
        "calibrators",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=True),
        sa.Column("method", sa.String(length=40), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=True),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("onnx_sha256", sa.String(length=64), nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibrators")),
    )
    op.create_index(op.f("ix_calibrators_onnx_sha256"), "calibrators", ["onnx_sha256"], unique=False)
    op.create_index(op.f("ix_calibrators_sha256"), "calibrators", ["sha256"], unique=False)
    op.create_table(
        "looks",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_sha256", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_looks")),
        sa.UniqueConstraint("dataset_sha256", "number", name=op.f("uq_looks_dataset_sha256")),
    )
    # Jobs that were judged before there was a ledger have looked as well; where the dataset is gone nobody can tell.
    op.execute(
        """
        INSERT INTO looks (job_id, dataset_sha256, number)
        SELECT jobs.id, datasets.sha256, ROW_NUMBER() OVER (PARTITION BY datasets.sha256 ORDER BY jobs.id) - 1
        FROM jobs JOIN datasets ON datasets.id = jobs.dataset_id
        WHERE jobs.verdict IS NOT NULL AND jobs.verdict <> 'undetermined'
        """
    )


def downgrade() -> None:
    op.drop_table("looks")
    op.drop_index(op.f("ix_calibrators_sha256"), table_name="calibrators")
    op.drop_index(op.f("ix_calibrators_onnx_sha256"), table_name="calibrators")
    op.drop_table("calibrators")
    op.drop_index(op.f("ix_jobs_page_sha256"), table_name="jobs")
    op.drop_column("jobs", "page_sha256")
