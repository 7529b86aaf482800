"""Estimates of a job: start and duration by finished jobs of the same kind, disk and memory by arithmetic."""
