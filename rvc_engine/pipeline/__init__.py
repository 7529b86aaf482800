"""The six stages in order: checks before the work, then slice, pitch, content, train, index and export."""
