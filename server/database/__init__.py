"""The database: engine and transactions, tables, and migrations between schema versions."""
