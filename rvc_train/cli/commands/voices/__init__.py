"""Commands of voices that were trained."""
