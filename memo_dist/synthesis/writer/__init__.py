"""The question writer: a small model that learned from people how questions are asked."""
