"""F0 of the clips: one curve in Hz per clip, by the chosen estimator."""
