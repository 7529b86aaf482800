"""Evaluation of saves: renders and scores held-out clips, writes previews, and selects the best save."""
