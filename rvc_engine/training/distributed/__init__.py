"""Training in several processes: the launcher starts a worker for each device and follows their events."""
