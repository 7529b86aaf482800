"""Jobs from submission to their end: one service for the routes and the workers, each call a transaction."""
