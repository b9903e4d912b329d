"""Alembic migrations of the registry, newest last."""
