"""Voices: jobs of one name as versions, links that show one without a token, bundles that move one to a server."""
