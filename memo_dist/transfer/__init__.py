"""A run copied to an object store and back: layout in ``manifest``."""
