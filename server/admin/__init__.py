"""Administration: the administrator's commands, backups, checks, retention, weights and periodic tasks."""
