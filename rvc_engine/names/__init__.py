"""Names of voices, datasets and files in any script: code pages of zips, and what file systems can store. No torch."""
