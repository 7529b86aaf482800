"""Schemas of voices: versions, links to them, bundles that move them, conversions of recordings with them."""
