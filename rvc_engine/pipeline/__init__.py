"""The six stages in order: preflight checks, then slice, pitch, content, train, index and export."""
