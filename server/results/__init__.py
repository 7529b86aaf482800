"""Results of a job besides its voice: evaluations, previews, checkpoints, logs."""
