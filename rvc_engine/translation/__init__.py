"""Messages of the command lines in the user's language, from one gettext catalogue. No torch."""
