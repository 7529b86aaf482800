"""Voice conversion: a recording in, the same words in the voice's sound out."""
