"""Schemas of voices: their versions, links to them, bundles that move them."""
