"""Routes of sessions, tokens, owners and the audit trail."""
