"""Training data: prepared clips are listed, split, loaded and padded to batches."""
