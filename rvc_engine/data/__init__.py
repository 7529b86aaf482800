"""Prepared clips on their way to the training loop: listed, split, loaded and padded to batches."""
