"""Routes of jobs, their progress and their results."""
