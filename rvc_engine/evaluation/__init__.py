"""How good a save is: held-out clips are rendered and scored, previews are written, the best save is chosen."""
