"""Queues and losses of work, workers, checkpoints, events and webhook messages."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TIME = sa.DateTime(timezone=True)
_ADDED: dict[str, sa.types.TypeEngine[Any]] = {
    "queue": sa.String(length=32),
    "memory_bytes": sa.BigInteger(),
    "losses": sa.JSON(),
    "reached": sa.Double(),
}


def upgrade() -> None:
    op.drop_index("ix_work_open", table_name="work")
    with op.batch_alter_table("work") as work:
        work.alter_column("rung_at", new_column_name="not_before", existing_type=_TIME)
        work.add_column(sa.Column("queue", sa.String(length=32), nullable=False, server_default="inspect"))
        work.add_column(sa.Column("memory_bytes", sa.BigInteger(), nullable=False, server_default="0"))
        work.add_column(sa.Column("losses", sa.JSON(), nullable=False, server_default="[]"))
        work.add_column(sa.Column("reached", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE work SET queue = 'calibrate.cpu' WHERE kind IN ('calibrate', 'plan')")
    op.execute("UPDATE work SET queue = 'predict' WHERE kind = 'predict'")
    with op.batch_alter_table("work") as work:  # the defaults were for rows that exist already
        for name, kind in _ADDED.items():
            work.alter_column(name, server_default=None, existing_type=kind, existing_nullable=False)
    op.create_index("ix_work_waiting", "work", ["state", "kind", "queue", "record_id"], unique=False)
    op.create_index("ix_work_due", "work", ["state", "kind", "queue", "not_before"], unique=False)
    op.create_index("ix_work_leases", "work", ["state", "lease_expires_at"], unique=False)
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("machine", sa.String(length=100), nullable=False),
        sa.Column("process", sa.String(length=60), nullable=False),
        sa.Column("queues", sa.JSON(), nullable=False),
        sa.Column("gpu", sa.Boolean(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_index(op.f("ix_workers_machine"), "workers", ["machine"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("saved_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_checkpoints")),
    )
    op.create_index(op.f("ix_checkpoints_sha256"), "checkpoints", ["sha256"], unique=False)
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_events")),
    )
    op.create_table(
        "deliveries",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.JSON(), nullable=False),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(op.f("ix_deliveries_job_id"), "deliveries", ["job_id"], unique=False)
    op.create_index("ix_jobs_status", "jobs", ["status"], unique=False)
    op.add_column("idempotency_keys", sa.Column("held_until", _TIME, nullable=True))


def downgrade() -> None:
    op.drop_column("idempotency_keys", "held_until")
    op.drop_index("ix_jobs_status", table_name="jobs")
    for name in ("deliveries", "events", "checkpoints", "workers"):
        op.drop_table(name)
    op.drop_index("ix_work_leases", table_name="work")
    op.drop_index("ix_work_due", table_name="work")
    op.drop_index("ix_work_waiting", table_name="work")
    with op.batch_alter_table("work") as work:
        for name in _ADDED:
            work.drop_column(name)
        work.alter_column("not_before", new_column_name="rung_at", existing_type=_TIME)
    op.create_index("ix_work_open", "work", ["state", "rung_at"], unique=False)
