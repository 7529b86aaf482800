"""Routes of conversions: recordings in, the same recordings in a voice out."""
