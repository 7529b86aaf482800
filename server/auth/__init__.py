"""Who a request comes from and what they may do: tokens, sessions, quotas, and the audit trail."""
