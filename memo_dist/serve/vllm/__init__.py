"""vLLM as what computes answers: its processes, its API, and what is made of its numbers."""
