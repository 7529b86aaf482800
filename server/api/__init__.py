"""Routes: from requests to services, and from rows to wire shapes. Nothing else imports them."""
