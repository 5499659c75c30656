"""Fusion: a frozen backbone that reads a memory's representations."""
