"""The synthesizer and the discriminators, as `torch.nn.Module`s with the published names and shapes; losses."""
