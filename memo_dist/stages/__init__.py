"""The stages of a run: one record each, read by every part that must know what a stage leaves."""
