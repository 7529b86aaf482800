"""The engine as a child process: its workspace, its events, its checkpoints, and the outcome of its exit."""
