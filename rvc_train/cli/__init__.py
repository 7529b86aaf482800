"""The program `rvc-train`: commands, settings, and what they print."""
