"""Comparison of a memory with retrieval and with trained weights, on the user's own questions."""
