"""Jobs know whether what they serve is shown to be better, apart from whether anything is served.

Until now nothing was promoted that was not shown: a job that is still open keeps that promise.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("status", sa.String), sa.column("request", sa.JSON))
_OPEN = _JOBS.c.status.in_(("queued", "running", "cancelling"))


def upgrade() -> None:
    op.add_column("jobs", sa.Column("shown", sa.Boolean(), nullable=True))
    _rename({"promoted": "shown"})


def downgrade() -> None:
    op.drop_column("jobs", "shown")
    _rename({"shown": "promoted", None: "promoted"})


def _rename(names: dict[str | None, str]) -> None:
    """Give `publish_when` of open jobs the other release's name."""
    connection = op.get_bind()
    for job_id, request in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.request).where(_OPEN)).all():
        if "publish_when" in request and request["publish_when"] in names:
            changed = {**request, "publish_when": names[request["publish_when"]]}
            connection.execute(sa.update(_JOBS).where(_JOBS.c.id == job_id).values(request=changed))
