"""HTTP as the standards have it, without any job: problem details, entity tags, ranges, event streams, limits."""
