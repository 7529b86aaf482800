"""A dataset's report: every recording is measured once, and the measurements become issues. Imports no torch."""
