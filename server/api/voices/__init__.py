"""Routes of voices, of links to them, and of what such a link shows."""
