"""The folder of a run, laid out as RVC lays out `logs/<name>/`, and how files are written to it safely."""
