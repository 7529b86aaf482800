"""The HTTP service: FastAPI over a job store in SQLite or PostgreSQL. Never imports torch.

A room imports only rooms below it, from top to bottom: api, admin, uploads, datasets, jobs, estimates and workers,
results, job_store, webhooks, storage, auth, database, http and pages. A request goes from a route in `api` to a
service, and from there to the tables.
"""
