"""Published weights: catalogue, copies on this machine, verification and download."""
