"""Language models on disk and in memory: bases, identity, weight files, chat format, loading."""
