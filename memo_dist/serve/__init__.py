"""A memory behind HTTP and MCP; see docs/serving.md."""
