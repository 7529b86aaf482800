"""Resumable uploads (tus): created, appended to by one request at a time, and turned into datasets."""
