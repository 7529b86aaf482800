"""Voice conversion: from a recording to the same words in a trained voice."""
