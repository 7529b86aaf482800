"""F0 of the clips: one curve in Hz for each clip, by the chosen estimator."""
