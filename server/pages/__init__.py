"""The browser page: HTML shells, their texts in two languages, and static files that are revalidated on each use."""
