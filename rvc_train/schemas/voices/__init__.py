"""Schemas of voices: conversions of recordings with them."""
