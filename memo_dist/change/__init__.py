"""A bank that changes: what differs, what that costs, and the new generation."""
