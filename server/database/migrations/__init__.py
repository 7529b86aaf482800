"""Alembic migrations: one for each version of the schema, in `versions/`."""
