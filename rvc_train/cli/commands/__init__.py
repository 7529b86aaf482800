"""Commands of `rvc-train`, a file for each group."""
