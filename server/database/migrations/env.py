"""Alembic's entry point: runs on the connection and in the transaction opened by `server.database.engine.migrate`."""

from alembic import context

from server.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by rebuilding it
    transactional_ddl=False,  # one transaction around all migrations is already open
)
context.run_migrations()
