"""Workers: their registry, and the telemetry of their GPUs."""
