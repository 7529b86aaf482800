"""Jobs from submission to their end: one service for routes and workers, each call a transaction."""
