"""The tables of the pre-release of 2026-11-27; a new database has none, and gets all of them by revision 0019."""

from __future__ import annotations

revision = "0017"
down_revision = None


def upgrade() -> None:
    """Leave all as it is."""
