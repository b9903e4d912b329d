"""Of work with the same key one piece is done at a time: messages to one host, those that wait already among them."""

from __future__ import annotations

from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("work", sa.Column("concurrency_key", sa.String(length=255), nullable=True))
    connection = op.get_bind()
    pending = connection.execute(sa.text("SELECT id, url FROM deliveries WHERE status = 'pending'")).all()
    keyed = sa.text("UPDATE work SET concurrency_key = :host WHERE record_id = :id")
    for delivery_id, url in pending:
        connection.execute(keyed, {"id": delivery_id, "host": urlsplit(url).hostname})


def downgrade() -> None:
    with op.batch_alter_table("work") as work:
        work.drop_column("concurrency_key")
