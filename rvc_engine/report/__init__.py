"""Report on a dataset: each recording is measured once, and the measurements are evaluated for issues. No torch."""
