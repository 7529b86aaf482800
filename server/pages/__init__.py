"""The browser page: HTML shells, their texts in two languages, and static files with content hashes in their names."""
