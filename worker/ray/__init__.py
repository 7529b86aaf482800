"""Dispatcher of one-shot workers on a Ray cluster: one for each job that is due, placed by Ray where the job fits."""
