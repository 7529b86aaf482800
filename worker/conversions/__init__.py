"""Conversions, served on a thread beside the job in an engine process of its own: device, decoding, engine, results."""
