"""Jobs and batches have pieces that are claimed by themselves; work waits its turn, dry runs in a queue of their own.

A worker of an older release opens work without a flow and a turn: it waits as if it had been first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "pieces",
        sa.Column("parent_id", sa.String(length=40), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("order", sa.JSON(), nullable=False),
        sa.Column("work_seconds", sa.Double(), nullable=False),
        sa.Column("reached", sa.Double(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pieces")),
    )
    op.create_index("ix_pieces_parent", "pieces", ["parent_id", "name"], unique=True)
    op.create_index(op.f("ix_pieces_sha256"), "pieces", ["sha256"], unique=False)
    op.add_column("batches", sa.Column("manifest_sha256", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_batches_manifest_sha256"), "batches", ["manifest_sha256"], unique=False)
    op.add_column("work", sa.Column("flow", sa.String(length=40), nullable=False, server_default=""))
    op.add_column("work", sa.Column("turn", sa.Double(), nullable=False, server_default="0"))
    op.add_column("work", sa.Column("requires", sa.String(length=200), nullable=True))
    op.execute("UPDATE work SET flow = record_id")
    op.execute("UPDATE work SET queue = 'plan' WHERE kind = 'plan'")
    op.drop_index("ix_work_waiting", table_name="work")
    op.drop_index("ix_work_due", table_name="work")
    op.create_index("ix_work_turns", "work", ["state", "queue", "turn", "record_id"], unique=False)
    op.create_index("ix_work_due", "work", ["state", "queue", "not_before", "kind"], unique=False)
    op.create_index("ix_work_flows", "work", ["flow", "queue"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_work_flows", table_name="work")
    op.drop_index("ix_work_due", table_name="work")
    op.drop_index("ix_work_turns", table_name="work")
    op.create_index("ix_work_due", "work", ["state", "kind", "queue", "not_before"], unique=False)
    op.create_index("ix_work_waiting", "work", ["state", "kind", "queue", "record_id"], unique=False)
    op.execute("UPDATE work SET queue = 'calibrate.cpu' WHERE kind = 'plan'")
    # What waited for pieces begins anew; nobody else would open it.
    op.execute(
        "UPDATE work SET state = 'waiting' WHERE state = 'blocked' AND record_id IN (SELECT parent_id FROM pieces)"
    )
    op.execute("DELETE FROM checkpoints WHERE job_id IN (SELECT id FROM pieces)")
    op.execute("DELETE FROM work WHERE record_id IN (SELECT id FROM pieces)")
    op.drop_column("work", "requires")
    op.drop_column("work", "turn")
    op.drop_column("work", "flow")
    op.drop_index(op.f("ix_batches_manifest_sha256"), table_name="batches")
    op.drop_column("batches", "manifest_sha256")
    op.drop_table("pieces")
