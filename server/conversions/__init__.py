"""Conversions of recordings with trained voices: submitted, claimed by workers, kept for a day."""
