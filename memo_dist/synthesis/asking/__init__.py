"""Asking: endpoints and their limits, the request journal, validation, attempts, spending."""
