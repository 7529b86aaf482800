"""The model card of a voice, `card.json` and `card.md` beside its files, and the origin of its recordings."""
