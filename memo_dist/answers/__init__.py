"""Answers and texts: what a memory answers, how texts are normalised, compared and scored."""
