"""HTTP as standardised, apart from jobs: problem details, lists, ranges, event streams, rate limits, connections."""
