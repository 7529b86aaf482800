"""What a run saves to go on from: recovery checkpoints, the published G and D pairs, base weights."""
