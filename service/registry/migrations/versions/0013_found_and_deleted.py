"""Jobs are found by the name that they publish under and by their metadata; jobs and versions can be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("request", sa.JSON), sa.column("publish_as", sa.String))
_AT_ONCE = 500
_NAMED = ("calibrators", "datasets", "models")


def upgrade() -> None:
    words = op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_metadata")),
    )
    op.create_index("ix_job_metadata_value", "job_metadata", ["name", "value", "job_id"], unique=False)
    op.add_column("jobs", sa.Column("publish_as", sa.String(length=100), nullable=True))
    op.create_index(op.f("ix_jobs_publish_as"), "jobs", ["publish_as"], unique=False)
    op.add_column("models", sa.Column("job_deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("published_versions", sa.Column("newest", sa.Integer(), nullable=True))
    for table in _NAMED:
        op.create_index(op.f(f"ix_{table}_name"), table, ["name"], unique=False)
    _fill(words)


def downgrade() -> None:
    for table in _NAMED:
        op.drop_index(op.f(f"ix_{table}_name"), table_name=table)
    op.drop_column("published_versions", "newest")
    op.drop_column("models", "job_deleted_at")
    op.drop_index(op.f("ix_jobs_publish_as"), table_name="jobs")
    op.drop_column("jobs", "publish_as")
    op.drop_table("job_metadata")


def _fill(words: sa.Table) -> None:
    """Jobs of earlier releases are found, too."""
    connection, last = op.get_bind(), ""
    page = sa.select(_JOBS.c.id, _JOBS.c.request).order_by(_JOBS.c.id).limit(_AT_ONCE)
    while jobs := connection.execute(page.where(_JOBS.c.id > last)).all():
        for job_id, request in jobs:
            if publish_as := request.get("publish_as"):
                connection.execute(sa.update(_JOBS).where(_JOBS.c.id == job_id).values(publish_as=publish_as))
            if metadata := request.get("metadata"):
                rows = [{"job_id": job_id, "name": name, "value": value} for name, value in metadata.items()]
                connection.execute(sa.insert(words), rows)
        last = jobs[-1].id
