"""Content features of the clips by the chosen encoder: 16 kHz audio in, frames of 768 or 256 features at 50 Hz out."""
