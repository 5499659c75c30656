"""Adapters for agent frameworks; they call a server over HTTP and import nothing of it."""
