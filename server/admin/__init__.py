"""Running the service: the administrator's commands, backups, checks, retention and periodic tasks."""
