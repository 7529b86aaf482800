"""Commands of voices: versions, links, bundles, conversions."""
