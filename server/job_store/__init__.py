"""Rows of jobs: statuses, transitions, events, leases and queries, in the transaction of the caller."""
