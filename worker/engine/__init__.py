"""The engine as a child process: its workspace, its command, its events, and what its end means."""
