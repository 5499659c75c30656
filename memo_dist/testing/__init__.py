"""Parts for tests and benchmarks that users may run too: a server that plays a model."""
