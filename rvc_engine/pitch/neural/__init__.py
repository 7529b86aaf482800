"""Neural F0 estimators (RMVPE, FCPE, CREPE): each with its own model, and the decoding that they share."""
