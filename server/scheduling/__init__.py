"""Which queued job a worker takes next: requirements against what workers have, and fair shares among owners."""
