"""Groups of requests of the client: access, administration, webhooks."""
