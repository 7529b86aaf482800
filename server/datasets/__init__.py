"""Datasets: ingested from an upload, validated by a report in a sandbox, deleted with what was made from them."""
