"""Published weights: which there are, where they lie on this machine, and how they are fetched and checked."""
