"""Versions of published names keep the class priors that they answer for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("published_versions", sa.Column("class_priors", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("published_versions", "class_priors")
