"""Datasets: ingested from an upload, validated by a report in a sandbox, deleted together with their stage results."""
