"""HTTP as standardised, apart from jobs: methods, media types, problem details, ranges, event streams, rate limits."""
