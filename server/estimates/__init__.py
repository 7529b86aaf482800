"""How long a job will take, when it will start and what it will need, from the times of earlier jobs."""
