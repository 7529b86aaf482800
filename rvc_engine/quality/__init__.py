"""Scores of a finished voice by conversions of other speakers, whose recordings the package contains."""
