"""Alembic's entry: runs on the connection, and in the transaction, that `server.database.engine.migrate` opened."""

from alembic import context

from server.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by rebuilding it
    transactional_ddl=False,  # one transaction around all of it is open already
)
context.run_migrations()
