"""From recordings to clips: files are found, decoded, cut at silences and resampled. Also mel spectrograms."""
