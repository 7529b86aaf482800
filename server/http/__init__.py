"""HTTP as standardised, independent of jobs: methods, media types, problem details, ranges, event streams, rate limits."""
