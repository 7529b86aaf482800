"""HTTP of the client: retried requests, problem details, event streams, resumable uploads and downloads."""
