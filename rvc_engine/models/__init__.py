"""Synthesizer and discriminators as `torch.nn.Module`s with the published names and shapes, and their losses."""
