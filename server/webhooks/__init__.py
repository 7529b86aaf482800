"""Webhooks: registered, filled in by the job's transitions, delivered with retries, never to a private address."""
