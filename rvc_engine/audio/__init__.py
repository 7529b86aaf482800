"""Audio input: recordings are listed, decoded, cut at silences and resampled to clips. Also mel spectrograms."""
