"""Groups of the client's requests: access, administration, webhooks."""
