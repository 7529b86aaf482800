"""Authentication and limits of owners: tokens, sessions, quotas, and the audit trail."""
