"""The FAISS index of a voice: built from its content features, and searched at conversion."""
