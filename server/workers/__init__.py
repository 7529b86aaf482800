"""The workers as the server sees them: registered, drained, and what their GPUs are doing."""
