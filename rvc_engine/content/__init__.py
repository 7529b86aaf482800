"""Content features of the clips: 16 kHz audio in, frames of 768 or 256 numbers at 50 Hz out, by the chosen encoder."""
