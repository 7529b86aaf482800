"""Webhooks: subscriptions, messages enqueued by job transitions, delivery with retries, to public addresses only."""
