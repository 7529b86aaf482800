"""Routes: from requests to services, and from rows to wire shapes. Only `server.app` imports them."""
