"""How the client talks HTTP: retries, problem details, event streams, resumable uploads and downloads."""
