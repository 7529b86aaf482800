"""Voice files: written from checkpoints, read, inspected, merged and converted to other formats."""
