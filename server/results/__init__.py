"""What a job makes besides its voice: evaluations and previews, checkpoints, logs."""
