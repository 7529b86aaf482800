"""HTTP as standardised, independent of jobs: problem details, entity tags, ranges, event streams, rate limits."""
