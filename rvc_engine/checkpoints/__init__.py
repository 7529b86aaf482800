"""Checkpoints on disk, written from models and read into them: recovery checkpoints, G/D pairs, base weights."""
