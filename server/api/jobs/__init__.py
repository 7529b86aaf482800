"""Routes of jobs, of what is seen of them, and of what they make."""
