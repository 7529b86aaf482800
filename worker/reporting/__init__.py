"""From the engine's events to the job store: batches, a spool while the database is unavailable, and heartbeats."""
