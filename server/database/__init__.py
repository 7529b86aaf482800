"""The database: its engine and transactions, the tables, and the migrations between their versions."""
